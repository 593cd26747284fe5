"""A repository in a directory: names and copies of objects, whom to trust, keys (docs/format.md, sections 1, 2, 3, 9).

It is opened with its genesis object alone: that tells the repository's id, the naming key and the first signers.
Everything that is read through it has been checked, or `Refused` is raised; where one copy of an object is bad, the
alternates are tried.
"""

import hashlib
import json
import re
import sys
from base64 import b64decode
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import pyrage
from blake3 import blake3

from sealed import CONTENT_MAX, MALFORMED, MIB, Refused, frame_opener, parse_signed, read_frames, read_header

GENESIS = "control/genesis"
DOCUMENT_MAX = 16 * MIB
KEYS_KEPT = 1024
NAME = re.compile(r"(?!\.\.?(/|$))[A-Za-z0-9._-]+(/(?!\.\.?(/|$))[A-Za-z0-9._-]+)*")
ALTERNATE = re.compile(r"\.r[1-9][0-9]*$")


class Missing(Refused):
    """There is no object of that name."""


def note(text):
    print(f"note: {text}", file=sys.stderr)


def file_hash(file, key=None):
    """BLAKE3 of a whole open file, in hexadecimal."""
    file.seek(0)
    return hashlib.file_digest(file, lambda: blake3(key=key)).hexdigest()


def read_identities(path):
    """The identities in an age identity file: a line each, comments begin with #."""
    lines = map(str.strip, Path(path).read_text().splitlines())
    return [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]


def time_of(document):
    """The time that a document bears, or None."""
    for member in ("created_at", "finished_at", "started_at"):
        if member in document:
            return datetime.fromisoformat(document[member])
    return None


def read_signed(name, path):
    """The bytes, payload and signer of a signed document; whether the signer is trusted remains to be asked."""
    with open(path, "rb") as file:
        data = file.read(DOCUMENT_MAX + 1)
    if len(data) > DOCUMENT_MAX:
        raise Refused(f"it is larger than {DOCUMENT_MAX} bytes")
    return data, *parse_signed(data, name)


class Statement(NamedTuple):
    """What a `signer` object says; whether that counts depends on all of them."""

    payload: dict
    signer: str
    hash: str


def enrolled(roots, statements):
    """The signers that are trusted from the beginning, whom they enrol, whom those enrol, and so on."""
    signers, before = set(roots), None
    while signers != before:
        before = set(signers)
        signers |= {each.payload["add"] for each in statements if each.signer in before and "add" in each.payload}
    return signers


class Repository:
    def __init__(self, root, identities=(), signers=()):
        """Trusts `signers` (fingerprints) and whom they vouch for; without any, the signers that the genesis names."""
        self.root = Path(root)
        self.identities = list(identities)
        self.unwrap = lru_cache(KEYS_KEPT)(self._unwrap)
        self.withdrawn = {}  # signer: from when on nothing of it counts
        self.rewrapped = {}  # name of an object, id of a wrapping of its key: further wrappings
        self.any_copy(GENESIS, lambda path: self._introduce(path, set(signers)))
        self._settle_trust()
        self._collect_rewraps()
        self.naming_key = self._find_naming_key()

    # Objects and their copies

    def names(self, pattern):
        """The logical names of the objects that match a glob pattern, in order."""
        paths = (path for each in (pattern, pattern + ".r[0-9]*") for path in self.root.glob(each))
        return sorted({ALTERNATE.sub("", path.relative_to(self.root).as_posix()) for path in paths})

    def any_copy(self, name, read):
        """What `read(path)` makes of the first good copy of an object: the original, or an alternate."""
        faults = []
        for path in self._copies(name):
            try:
                result = read(path)
            except (Refused, OSError) as fault:
                faults.append(f"{path.relative_to(self.root)}: {fault}")
                continue
            for fault in faults:
                note(f"{fault}; read {path.name} instead")
            return result
        if faults:
            raise Refused("; ".join(faults))
        raise Missing(f"{name} is missing")

    def _copies(self, name):
        if not NAME.fullmatch(name):
            raise Refused(f"{name!r} can't be the name of an object")
        original = self.root / name
        if original.exists():
            yield original
        number = 1
        while (alternate := original.with_name(f"{original.name}.r{number}")).exists():
            yield alternate
            number += 1

    # Signed documents

    def document(self, name):
        """The bytes, payload and signer of a signed document, such as a head."""

        def read(path):
            data, payload, signer = read_signed(name, path)
            return data, *self._vouch(payload, signer)

        return self.any_copy(name, read)

    def _vouch(self, payload, signer):
        """Passes on the payload of a document that a trusted signer wrote for this repository, and the signer."""
        if not self._trusts(signer, payload):
            raise Refused(f"it is signed by {signer}, which is not trusted")
        self._check_version(payload)
        return payload, signer

    def _check_version(self, payload):
        if payload.get("format") != 1:
            raise Refused(f"it is of format {payload.get('format')}, and this reader knows 1")
        if payload.get("features"):
            raise Refused(f"it needs features that this reader does not know: {payload['features']}")
        if payload.get("repository") != self.id.hex():
            raise Refused(f"it belongs to repository {payload.get('repository')}")

    def _trusts(self, signer, document):
        if signer not in self.withdrawn:
            return signer in self.trusted
        time = time_of(document)
        return signer in self.trusted and time is not None and time < self.withdrawn[signer]

    # Sealed objects

    @contextmanager
    def sealed(self, path, name, kind, content_max=CONTENT_MAX):
        """Opens a sealed object: its header, and an iterator over the contents of its frames."""
        with open(path, "rb") as file:
            header, _ = self._vouch(*parse_signed(read_header(file), name))
            if header.get("kind") != kind:
                raise Refused(f"it is of kind {header.get('kind')}, not {kind}")
            match header.get("seal"):
                case {"mode": "none"}:
                    wrapped_key = None
                case {"mode": "age", "key": str(wrapped_key)}:
                    pass
                case _:
                    raise Refused("it is sealed in a way that version 1 does not know")
            yield header, read_frames(file, header.get("body"), self.opener(name, wrapped_key), content_max)

    def read_sealed(self, name, kind, whole):
        """The contents of the frames of an object whose `whole` size and hash a head tells."""

        def read(path):
            with open(path, "rb") as file:
                if whole != {"bytes": path.stat().st_size, "blake3": file_hash(file)}:
                    raise Refused("it is not the object that the head names")
            with self.sealed(path, name, kind) as (_, contents):
                return list(contents)

        return self.any_copy(name, read)

    def opener(self, name, wrapped_key):
        """The function that opens an object's frames; `wrapped_key` is its `seal.key`, or None with mode `none`."""
        return frame_opener(self.id, name, None if wrapped_key is None else self.unwrap(name, wrapped_key))

    def _unwrap(self, name, wrapped_key):
        wrapping_id = blake3(wrapped_key.encode()).hexdigest()[:32]
        for wrapping in (wrapped_key, *self.rewrapped.get((name, wrapping_id), ())):
            if key := self._decrypt_key(wrapping):
                return key
        raise Refused("no identity opens it" if self.identities else "it is sealed, and there is no identity")

    def _decrypt_key(self, wrapping):
        """The 32 bytes in an age file, or None where no identity opens it."""
        try:
            key = pyrage.decrypt(b64decode(wrapping, validate=True), self.identities)
        except (pyrage.DecryptError, ValueError):
            return None
        return key if len(key) == 32 else None

    # The control objects that matter to a reader

    def _introduce(self, path, signers):
        """Learns from the header of the genesis, which needs no key, which repository this is and whom to trust."""
        with open(path, "rb") as file:
            header, signer = parse_signed(read_header(file), GENESIS)
        try:
            self.id = bytes.fromhex(header["repository"])
            self.trusted = signers or set(header["signers"])
            self._vouch(header, signer)
            self.trusted |= set(header["signers"])
            if len(self.id) != 16:
                raise ValueError
        except MALFORMED:
            raise Refused("it does not describe a repository") from None

    def _find_naming_key(self):
        """The naming key in the genesis, or, for identities of later recipients, in a change of recipients."""
        try:
            return self.any_copy(GENESIS, self._read_naming_key)
        except Refused as fault:
            for name in reversed(self.names("control/*-recipients")):
                try:
                    wrapping = self.document(name)[1]["naming_key"]
                except (Refused, *MALFORMED):
                    continue
                if key := self._decrypt_key(wrapping):
                    return key
            raise fault

    def _read_naming_key(self, path):
        with self.sealed(path, GENESIS, "genesis") as (_, contents):
            key = json.loads(b"".join(contents))["naming_key"]
        if not re.fullmatch("[0-9a-f]{64}", key):
            raise Refused("its naming key is none")
        return bytes.fromhex(key)

    def _settle_trust(self):
        """Enrols and withdraws signers as `signer` objects say, whatever the times that these bear.

        Each withdrawal by one who was ever enrolled counts, and voids what the withdrawn signer said of others. So
        those who contradict each other end with fewer who are trusted, never with more.
        """
        statements = list(self._read_statements())
        speakers = enrolled(self.trusted, statements)
        keeps = {}  # for each who was withdrawn: which of its statements each withdrawal leaves in force
        for statement in statements:
            match statement.payload:
                case {"remove": whom, "from": time} if statement.signer in speakers and statement.signer != whom:
                    time = datetime.fromisoformat(time)
                    self.withdrawn[whom] = min(time, self.withdrawn.get(whom, time))
                    keeps.setdefault(whom, []).append(statement.payload.get("keep", ()))
        in_force = [each for each in statements if all(each.hash in keep for keep in keeps.get(each.signer, ()))]
        self.trusted = enrolled(self.trusted, in_force)

    def _read_statements(self):
        for name in self.names("control/*-signer"):
            try:
                data, payload, signer = self.any_copy(name, partial(read_signed, name))
                self._check_version(payload)
                yield Statement(payload, signer, blake3(data).hexdigest())
            except Refused as fault:
                note(f"{name}: {fault}; nobody is enrolled or withdrawn by it")

    def _collect_rewraps(self):
        for name in self.names("control/*-rewrap"):
            try:
                keys = self.document(name)[1]["keys"]
            except Refused as fault:
                note(f"{fault}; its keys are not used")
                continue
            for sealed_name, wrappings in keys.items():
                for wrapping_id, wrapping in wrappings.items():
                    self.rewrapped.setdefault((sealed_name, wrapping_id), []).append(wrapping)
