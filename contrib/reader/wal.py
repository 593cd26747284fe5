"""Hands WAL files to PostgreSQL, as its restore_command (docs/format.md, section 7).

Invariant: a file is handed out only after its content was found to have the hash in its object's name; and "there is no
such file" is said only where nothing in the repository speaks against it. PostgreSQL ends recovery on that word, so
whatever else happens is a refusal.
"""

import io
import os
import re
import tempfile
from collections import defaultdict
from contextlib import contextmanager
from itertools import pairwise
from math import inf
from typing import NamedTuple

from backup import backups
from repository import file_hash, note
from sealed import MIB, Refused

FRAME_MAX = MIB
PART = 64 * MIB
SEGMENT = re.compile(r"[0-9A-F]{24}")
HISTORY = re.compile(r"([0-9A-F]{8})\.history")
OBJECT = re.compile(
    r"wal/.*/([0-9A-F]{8})/(?P<file>\1([0-9A-F]{16}(\.partial|\.[0-9A-F]{8}\.backup)?|\.history))-(?P<hash>[0-9a-f]{32})"
)


class Absent(Exception):
    """There is no such file, and nothing in the repository says that there should be one."""


class WalObject(NamedTuple):
    name: str
    file: str
    hash: str


class Stretch(NamedTuple):
    """A timeline on the way to another, and the LSN where that way leaves it."""

    timeline: int
    end: int


def serve(repository, lineage, file, destination, target=None):
    """Writes a WAL file to `destination`; raises `Absent` where PostgreSQL may end recovery or ask again.

    `target` is the timeline that PostgreSQL recovers to; None means the latest that the repository knows.
    """
    archive = Archive(repository, lineage)
    with replacing(destination) as out:
        if match := HISTORY.fullmatch(file):
            out.write(archive.history_file(int(match[1], 16), target))
        elif SEGMENT.fullmatch(file):
            archive.copy_segment(file, archive.path_to(target or max(archive.timelines())), out)
        else:
            archive.copy_other(file, out)


@contextmanager
def replacing(destination):
    """A temporary file beside `destination` that becomes it, or goes."""
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(os.path.abspath(destination)), delete=False) as out:
        try:
            yield out
            out.flush()
            os.fsync(out.fileno())
            os.replace(out.name, destination)
        except BaseException:
            os.unlink(out.name)
            raise


class Archive:
    """The WAL of one lineage, and the timelines that its history files and heads tell of."""

    def __init__(self, repository, lineage):
        self.repository = repository
        self.heads = [each.head for each in backups(repository, lineage) if each.head["kind"] == "physical"]
        if not self.heads:
            raise Refused(f"there is no backup of {lineage}")
        self.segment_bytes = self.heads[-1]["segment_bytes"]
        self.objects = {}  # lists, by file name
        for match in map(OBJECT.fullmatch, repository.names(f"wal/{lineage}/*/*")):
            if match:
                wal = WalObject(match[0], match["file"], match["hash"])
                self.objects.setdefault(wal.file, []).append(wal)
        self.histories = self._find_histories()

    # Timelines

    def _find_histories(self):
        """The history of each timeline, as stretches and as text: archived, in a head, or rebuilt from a descendant's.

        A timeline with two of them is a number that two servers took.
        """
        texts = [(head["timeline"], head["history"].encode()) for head in self.heads if head["history"]]
        for file in filter(HISTORY.fullmatch, self.objects):
            for wal in self.objects[file]:
                try:
                    self.copy(wal, out := io.BytesIO())
                    texts.append((int(file[:8], 16), out.getvalue()))
                except Refused as fault:
                    note(fault)
        for _, text in list(texts):
            lines = text.splitlines(keepends=True)
            for number, line in enumerate(lines):
                before = b"".join(lines[:number])
                if parse_history(before) and (parent := parse_history(line)):
                    texts.append((parent[0].timeline, before))
        found = defaultdict(dict)
        for timeline, text in texts:
            found[timeline].setdefault(parse_history(text), text)
        return found

    def timelines(self):
        """Every timeline that anything in the repository speaks of."""
        return {1, *self.histories, *(head["timeline"] for head in self.heads), *(int(f[:8], 16) for f in self.objects)}

    def history(self, timeline):
        """The stretches before a timeline, and the text of its history file."""
        found = self.histories.get(timeline) or ({(): b""} if timeline == 1 else {})
        if len(found) != 1:
            why = "two servers took the same number" if found else "it is lost"
            raise Refused(f"the history of timeline {timeline} can't be told: {why}")
        return next(iter(found.items()))

    def path_to(self, timeline):
        return [*self.history(timeline)[0], Stretch(timeline, inf)]

    def history_file(self, timeline, target):
        """PostgreSQL looks for the latest timeline by asking for one after the other, until there is none."""
        known = self.timelines()
        if timeline == 1 or timeline not in known:
            if target is None and timeline < max(known) and timeline != 1:
                raise Refused(f"timeline {timeline} is unknown, but {max(known)} exists: name the one that you want")
            raise Absent(f"timeline {timeline} has no history file")
        return self.history(timeline)[1]

    # Segments

    def copy_segment(self, file, path, out):
        """Writes the segment of this name as recovery along `path` must see it."""
        timeline, start = int(file[:8], 16), self.start_of(file)
        stretch = next((each for each in path if each.timeline == timeline), None)
        if stretch is None:
            raise Refused(f"recovery to timeline {path[-1].timeline} doesn't pass timeline {timeline}")
        if stretch.end <= start:
            raise Absent(f"recovery to timeline {path[-1].timeline} leaves timeline {timeline} before {file}")
        end, best = stretch.end, self.choose(file, path)
        if best is None:
            end, best = max(self.shared(timeline, start), default=(end, None))
        if best is None:
            for evidence in self.evidence(timeline, start):
                raise Refused(f"{file} is missing, and {evidence}")
            raise Absent(f"{file} is not in the repository, nor anything later of timeline {timeline}")
        self.copy(best, out)
        if out.tell() != self.segment_bytes:
            raise Refused(f"{file} has {out.tell()} bytes, and segments have {self.segment_bytes}")
        if min(end, stretch.end) < start + self.segment_bytes:
            # What follows belongs to another timeline: PostgreSQL would take it for this one's.
            out.truncate(min(end, stretch.end) - start)
            out.truncate(self.segment_bytes)

    def copy_other(self, file, out):
        """Writes a file that recovery doesn't ask for: `.partial`, `.backup`."""
        best = self.choose(file)
        if best is None:
            raise Absent(f"{file} is not in the repository")
        self.copy(best, out)

    def shared(self, timeline, start):
        """Yields what other timelines have of a segment that they began in: up to which LSN, and the object."""
        for descendant, found in self.histories.items():
            path = self.path_to(descendant) if len(found) == 1 else []
            for stretch in path:
                if stretch.timeline == timeline and start < stretch.end < start + self.segment_bytes:
                    heir = timeline_at(path, start + self.segment_bytes)
                    if best := self.choose(self.file_at(heir, start), path):
                        yield stretch.end, best

    def evidence(self, timeline, start):
        """Yields what says that a timeline has WAL behind an LSN."""
        here = self.file_at(timeline, start)
        for file in self.objects:
            if file[:8] == here[:8] and file[8:24] >= here[8:]:
                yield f"{file} is there"
        for head in self.heads:
            if head["timeline"] == timeline and parse_lsn(head["stop_lsn"]) > start:
                yield f"backup {head['id']} needs it"
        for descendant, found in self.histories.items():
            if any(each.timeline == timeline and each.end > start for stretches in found for each in stretches):
                yield f"timeline {descendant} began after it"

    def start_of(self, file):
        return int(file[8:16], 16) << 32 | int(file[16:24], 16) * self.segment_bytes

    def file_at(self, timeline, start):
        return f"{timeline:08X}{start >> 32:08X}{(start & 0xFFFF_FFFF) // self.segment_bytes:08X}"

    # Several objects for one file

    def choose(self, file, path=()):
        """The object to use for a file: the longest tail, or of a fork the one that its neighbours on the path prove.

        `.partial` files are beginnings of their segment, of use where no whole one goes on to its end.
        """
        objects, partial = self.objects.get(file, []), self.objects.get(file + ".partial")
        if partial and all(self.is_stopped(wal) for wal in objects):
            objects = objects + partial
        if len(objects) < 2:
            return objects[0] if objects else None
        objects = sorted(objects, key=self.valid_bytes, reverse=True)
        if not any(self.differ(objects[0], other) for other in objects[1:]):
            return objects[0]
        fitting = [wal for wal in objects if path and self.is_chained(wal, path)]
        if len(fitting) != 1:
            raise Refused(f"{file} was archived by two servers, which differ; its neighbours don't tell which is right")
        note(f"{file} was archived by two servers, which differ; its neighbours prove {fitting[0].name}")
        return fitting[0]

    def is_stopped(self, wal):
        """Whether valid records are known to end before the segment does."""
        facts = self.facts(wal)
        return bool(facts and facts["stopped"])

    def differ(self, one, other):
        """Whether two objects differ within the bytes that are valid in both."""
        length, beginnings = min(self.valid_bytes(one), self.valid_bytes(other)), []
        for wal in (one, other):
            with tempfile.TemporaryFile() as out:
                self.copy(wal, out)
                out.truncate(length)
                beginnings.append(file_hash(out))
        return beginnings[0] != beginnings[1]

    def valid_bytes(self, wal):
        facts = self.facts(wal)
        if not facts:
            raise Refused(f"there are several objects for {wal.file}, and nothing tells how far {wal.name} is valid")
        return parse_lsn(facts["valid_to"]) - self.start_of(wal.file)

    def is_chained(self, wal, path):
        """Whether the records of an object join those of the segments before and after it on the path."""
        start, size = self.start_of(wal.file), self.segment_bytes
        before = self.objects.get(self.file_at(timeline_at(path, start), start - size), ())
        after = self.objects.get(self.file_at(timeline_at(path, start + 2 * size), start + size), ())
        if len(before) != 1 or len(after) != 1:
            return False
        chain = [self.facts(each) for each in (before[0], wal, after[0])]
        return all(chain) and follows(chain[0], chain[1]) and follows(chain[1], chain[2])

    # Objects

    def facts(self, wal):
        def read(path):
            with self.repository.sealed(path, wal.name, "wal") as (header, _):
                return header["facts"]

        return self.repository.any_copy(wal.name, read)

    def copy(self, wal, out):
        """Writes the content of an object to an empty file, and proves it by reading it back."""
        header = self._copy_body(wal.name, "wal", out)
        if header["file"] != wal.file:
            raise Refused(f"{wal.name} holds {header['file']}")
        for number in range(header.get("parts", 0)):
            begin = out.tell()
            self._copy_body(f"{wal.name}.p{number:04x}", "wal-part", out)
            if not 0 < out.tell() - begin == min(PART, header["file_bytes"] - begin):
                raise Refused(f"part {number} of {wal.name} has {out.tell() - begin} bytes")
        size = out.tell()
        if size != header["file_bytes"] or file_hash(out, self.repository.naming_key)[:32] != wal.hash:
            raise Refused(f"{wal.name} does not hold what its name says")

    def _copy_body(self, name, kind, out):
        begin = out.tell()

        def read(path):
            out.seek(begin)
            out.truncate()
            with self.repository.sealed(path, name, kind, FRAME_MAX) as (header, contents):
                out.writelines(contents)
            return header

        return self.repository.any_copy(name, read)


def parse_history(text):
    """The stretches in a timeline history file: lines of a timeline and the LSN where it was left.

    The LSNs may go back: a copy that aimed at a descendant, and stopped before that began, names it as its parent.
    Nothing of a timeline counts behind the LSN where a later line was left.
    """
    stretches, end = [], inf
    for line in reversed(text.decode().splitlines()):
        if line.strip() and not line.lstrip().startswith("#"):
            timeline, left = line.split()[:2]
            end = min(end, parse_lsn(left))
            stretches.insert(0, Stretch(int(timeline), end))
    if any(one.timeline >= next.timeline for one, next in pairwise(stretches)):
        raise Refused("a history file is out of order")
    return tuple(stretches)


def parse_lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def timeline_at(path, lsn):
    """The timeline that a path has at the end of a segment."""
    return next(stretch.timeline for stretch in path if stretch.end >= lsn)


def follows(before, after):
    """Whether the facts of two segments say that the records of one go on in the other."""
    dropped = after["continued_bytes"] == 0 and after["drops_unfinished"]
    if before["stopped"] or before["last_page_timeline"] > after["page_timeline"]:
        return False
    if after["continued_bytes"] != before["missing_bytes"] and not dropped:
        return False
    continued = after["continued_bytes"] > 0
    starts = {before["unfinished_record"] if continued else before["last_record"], after["first_record_prev"]}
    return continued if None in starts else len(starts) == 1
