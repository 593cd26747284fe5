"""Backups: heads, manifests and chunks (docs/format.md, sections 4 to 6).

A head is signed and names the hash of its manifest; that names the hash of every block, and a block that of every
chunk. So each byte is covered by the signature of the head, and the headers of packs need not be read.
"""

import json
from base64 import b64decode
from functools import lru_cache, partial
from typing import NamedTuple

from blake3 import blake3

from repository import note
from sealed import CONTENT_MAX, MIB, Refused, read_frame

CHUNK_MAX = MIB
CHUNKS_KEPT = 64  # in memory, decoded


class Backup(NamedTuple):
    head: dict
    signer: str  # fingerprint
    hash: str  # of the head


def backups(repository, lineage="*/*"):
    """The backups of a lineage ("cluster/system identifier") whose heads are good, oldest first."""
    found = []
    for name in repository.names(f"backups/{lineage}/*/head"):
        try:
            data, head, signer = repository.document(name)
            if name != backup_name(head) + "/head":
                raise Refused(f"{name} says of itself that it is {backup_name(head)}/head")
        except Refused as fault:
            note(f"not a backup: {fault}")
        else:
            found.append(Backup(head, signer, blake3(data).hexdigest()))
    return sorted(found, key=lambda backup: backup.head["id"])


def backup_name(head):
    return f"backups/{head['cluster']}/{head['system_identifier']}/{head['id']}"


class Manifest:
    """What a physical backup consists of: entries in blocks, which refer to chunks in packs."""

    def __init__(self, repository, head):
        self.repository = repository
        self.head = head
        documents = repository.read_sealed(backup_name(head) + "/manifest", "manifest", head["manifest"])
        self.documents = [json.loads(document) for document in documents]
        lines = b"".join(repository.read_sealed(backup_name(head) + "/packs", "packs", head["packs"])).splitlines()
        self.packs = {pack["name"]: pack for pack in map(json.loads, lines)}
        self._chunk = lru_cache(CHUNKS_KEPT)(self.read_chunk)

    def entries(self):
        """Yields (entry, its block) in order of path, then (entry, None) for what must be written last."""
        for document in self.documents:
            for first, pack, *address in document["blocks"]:
                content = self.read_chunk(pick(document["packs"], pack), *address, content_max=CONTENT_MAX)
                block = json.loads(content)
                if block["entries"][0]["path"] != first:
                    raise Refused(f"the block of {first} begins with another path")
                for entry in block["entries"]:
                    yield entry, block
        for entry in self.documents[-1]["last"]:
            yield entry, None

    def content(self, entry, block):
        """Yields the content of a file's entry in pieces: bytes, or the number of zeros that stand there."""
        if "data" in entry:
            yield b64decode(entry["data"], validate=True)
            return
        for extent in entry["extents"]:
            match extent:
                case [length]:
                    yield natural(length)
                case [length, number, offset]:
                    pack, *address = pick(block["chunks"], number)
                    chunk = self._chunk(pick(block["packs"], pack), *address)
                    end = natural(offset) + natural(length)
                    if end > len(chunk):
                        raise Refused(f"an extent of {entry['path']} reaches past its chunk")
                    yield chunk[offset:end]
                case _:
                    raise Refused(f"{entry['path']} has an extent of an unknown form: {extent}")

    def read_chunk(self, pack, offset, sealed_bytes, content_bytes, digest, content_max=CHUNK_MAX):
        """One chunk, by its address; where it is bad in one copy of the pack, another copy may have it."""
        stored = self.packs.get(pack)
        if stored is None:
            raise Refused(f"the list of packs lacks {pack}")
        open_frame = self.repository.opener(pack, stored.get("key"))

        def read(path):
            with open(path, "rb") as file:
                file.seek(12 + natural(stored["header_bytes"]) + natural(offset))
                last, sealed = read_frame(file)
            if last or len(sealed) != sealed_bytes:
                raise Refused(f"no frame of {sealed_bytes} bytes is at {offset}")
            content = open_frame(offset, last, sealed, content_max)
            if len(content) != content_bytes or blake3(content).hexdigest() != digest:
                raise Refused(f"the frame at {offset} does not hold what the backup refers to")
            return content

        return self.repository.any_copy(pack, read)

    def check_packs(self):
        """Refuses where a pack has no copy of the right size: cheap, so it is done before anything is written."""
        for pack, stored in self.packs.items():
            self.repository.any_copy(pack, partial(check_size, stored["bytes"]))


def check_size(expected, path):
    if path.stat().st_size != expected:
        raise Refused(f"it has {path.stat().st_size} bytes instead of {expected}")


def natural(number):
    if type(number) is not int or number < 0:
        raise Refused(f"{number!r} stands where a number from 0 on should be")
    return number


def pick(items, index):
    """An item of a list; unlike Python's own indexing it does not count negative numbers from the end."""
    if natural(index) >= len(items):
        raise Refused(f"a list of {len(items)} has no item {index}")
    return items[index]
