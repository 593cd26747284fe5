"""Writes the data directory of a backup (docs/format.md, section 5).

Nothing is written before the whole manifest has been read and found harmless; nothing is ever overwritten; and
`global/pg_control` comes last, so that PostgreSQL doesn't start from half of a cluster.
"""

import grp
import os
import pwd
import re
from base64 import b64decode
from itertools import groupby
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from backup import natural
from repository import note
from sealed import Refused

SPAN = 1 << 30
INLINE_MAX = 1024
TABLESPACE = re.compile(rb"pg_tblspc/([1-9][0-9]*)")


class Item(NamedTuple):
    """A path of the cluster. A file over 1 GiB has several spans, anything else one."""

    path: bytes
    type: str
    entry: dict  # the first span's
    spans: list  # of (entry, block), for Manifest.content
    last: bool


def items(manifest):
    """Yields the items of a backup in the order in which they must be written, each checked as the format demands."""
    directories, previous = {()}, ()
    last_paths = {entry["path"] for entry in manifest.documents[-1]["last"]}
    for text, spans in groupby(manifest.entries(), key=lambda each: each[0]["path"]):
        spans = list(spans)
        entry, block = spans[0]
        item = Item(decode_path(text), entry["type"], entry, spans, last=block is None)
        parts = tuple(item.path.split(b"/"))
        if item.last:
            if text not in last_paths or item.type != "file" or "data" not in entry:
                raise Refused(f"{text} can't be written last: it is given twice, or without its content")
            last_paths.remove(text)
        elif parts <= previous or text in last_paths:
            raise Refused(f"{text} is out of order, or there twice")
        else:
            previous = parts
        if parts[:-1] not in directories:
            raise Refused(f"{text} lies below what is no directory of this backup")
        check(item)
        if item.type != "file":
            directories.add(parts)
        yield item


def decode_path(text):
    """The bytes of a path. Refuses any that is escaped otherwise than it must be, or that could leave the directory."""
    path = unquote_to_bytes(text)
    escaped = "".join(chr(byte) if 0x21 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}" for byte in path)
    if escaped != text or b"\0" in path or {b"", b".", b".."} & set(path.split(b"/")):
        raise Refused(f"{text!r} is a hostile path")
    return path


def check(item):
    """Refuses what is impossible in itself: unknown types, spans that don't add up, content of another length."""
    name, entry = item.entry["path"], item.entry
    if item.type not in ("file", "directory", "tablespace"):
        raise Refused(f"{name} is of the unknown type {item.type!r}")
    if item.type == "tablespace" and not TABLESPACE.fullmatch(item.path):
        raise Refused(f"{name} can't be a tablespace")
    if len(item.spans) != (max(1, -(-entry["bytes"] // SPAN)) if item.type == "file" else 1):
        raise Refused(f"{name} is there twice, or in part")
    if item.type == "file":
        for number, (span, _) in enumerate(item.spans):
            check_span(span, number * SPAN, entry, item.last)


def check_span(span, at, first, last):
    differing = {"at", "extents", "data", "bad_pages"}
    if {k: v for k, v in span.items() if k not in differing} != {k: v for k, v in first.items() if k not in differing}:
        raise Refused(f"the spans of {span['path']} contradict each other")
    if "data" in span:
        length = len(b64decode(span["data"], validate=True))
        if length > INLINE_MAX and not last:
            raise Refused(f"{span['path']} has {length} bytes in the manifest")
    else:
        length = sum(natural(extent[0]) for extent in span["extents"])
    if span.get("at", 0) != at or length != min(SPAN, natural(span["bytes"]) - at):
        raise Refused(f"the content of {span['path']} does not have its length")


def tablespaces(manifest):
    """Reads and checks the whole manifest; returns the tablespaces that need a place: OID and original location."""
    manifest.check_packs()
    found = [item for item in items(manifest) if item.type == "tablespace" and "location" in item.entry]
    return {oid_of(item): item.entry["location"] for item in found}


def oid_of(item):
    return TABLESPACE.fullmatch(item.path).group(1).decode()


def write(manifest, target, places):
    """Writes the data directory `target`, and each tablespace (by OID) to its place; all must be absent or empty."""
    head = manifest.head
    for directory in (target, *places.values()):
        make_directory(directory)
    made = [(target, {"mode": head["directory_mode"]})]
    durable = False
    for item in items(manifest):
        if item.last and not durable:
            os.sync()
            durable = True
        path = os.path.join(os.fsencode(target), item.path)
        match item.type:
            case "file" if item.path == b"tablespace_map":
                pass  # by it PostgreSQL would turn the links back to where they pointed; those made here are right
            case "file":
                write_file(path, manifest, item)
            case "tablespace" if "location" in item.entry:
                os.symlink(os.path.abspath(places[oid_of(item)]), os.fsdecode(path))
                made.append((path, item.entry))
            case _:
                os.mkdir(path, 0o700)
                made.append((path, item.entry))
    for path, entry in reversed(made):
        os.chmod(path, permissions(entry) | 0o700)
        set_owner(path, entry, head)
    os.sync()


def make_directory(path):
    """Makes a directory, or takes one that is empty."""
    os.makedirs(path, 0o700, exist_ok=True)
    if os.listdir(path):
        raise Refused(f"{path} is not empty")


def write_file(path, manifest, item):
    size = item.entry["bytes"]
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        for entry, block in item.spans:
            if entry.get("bad_pages"):
                note(f"{entry['path']}: pages {entry['bad_pages']} were damaged when they were backed up")
            for piece in manifest.content(entry, block):
                if isinstance(piece, int):
                    file.seek(piece, os.SEEK_CUR)
                else:
                    file.write(piece)
        if file.tell() != size:
            raise Refused(f"{item.entry['path']} came out with {file.tell()} bytes instead of {size}")
        file.truncate(size)
        os.fchmod(file.fileno(), permissions(item.entry))
    set_owner(path, item.entry, manifest.head)


def permissions(entry):
    """The permission bits of a mode. A writer also records setuid, setgid and sticky; those are nobody's business."""
    return int(entry["mode"], 8) & 0o777


def set_owner(path, entry, head):
    """Gives a file to the owner that the backup recorded; only root can."""
    if os.geteuid() == 0:
        user, group = entry.get("owner", head["owner"]), entry.get("group", head["group"])
        try:
            os.chown(path, pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid)
        except KeyError as unknown:
            raise Refused(f"the files belong to {user}:{group}, and there is no {unknown} here") from None
