"""Signed documents and sealed frames: sections 2 and 3 of docs/format.md, as functions of bytes.

Nothing leaves this module unverified: a payload only if its signature holds for the name that it was found under,
content only if its frame opens in its repository, its object and its place. Whom to trust is repository.py's matter.
"""

import json
import re
import struct
from base64 import b64decode, b64encode

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MIB = 1 << 20
MAGIC = b"PGKEEP1\n"
HEADER_MAX = MIB
CONTENT_MAX = 64 * MIB
SEALED_MIN, SEALED_MAX = 24, CONTENT_MAX + 24
SIGNED_BY = re.compile(rb'\{"signer":"([^"]{44})","signature":"([^"]{88})"\}')

# What Python raises where a document lacks a member, or has one of the wrong type.
MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError)


class Refused(Exception):
    """Something is not as the format demands, and nothing of it may be used."""


def parse_signed(data, name):
    """The payload of a signed document and its signer's fingerprint, if the signature holds for this name."""
    try:
        payload, signed_by, end = data.split(b"\n")
        signer, signature = (decode_base64(text) for text in SIGNED_BY.fullmatch(signed_by).groups())
        message = b"pgkeep-signed-1\n" + name.encode() + b"\n" + payload
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, message)
        payload = json.loads(payload)
        if end or not isinstance(payload, dict):
            raise ValueError
    except InvalidSignature:
        raise Refused(f"its signature does not hold for the name {name}") from None
    except MALFORMED:
        raise Refused("it is no signed document") from None
    return payload, "s-" + blake3(signer).hexdigest()[:32]


def decode_base64(text):
    """Takes only the one way to write it, so that every flipped bit shows."""
    data = b64decode(text, validate=True)
    if b64encode(data) != text:
        raise ValueError
    return data


def read_header(file):
    """The header of a sealed object, a signed document; leaves the file at the beginning of the body."""
    magic, length = struct.unpack("<8sI", read_exactly(file, 12))
    if magic != MAGIC:
        raise Refused("it is no sealed object")
    if length > HEADER_MAX:
        raise Refused(f"its header would be {length} bytes long")
    return read_exactly(file, length)


def read_frames(file, body, open_frame, content_max=CONTENT_MAX):
    """Yields the content of each frame of a body, then raises if it was cut, spliced, extended or replaced."""
    digest, offset, last = blake3(), 0, False
    while not last:
        last, sealed = read_frame(file)
        digest.update(frame_word(last, sealed)).update(sealed)
        yield open_frame(offset, last, sealed, content_max)
        offset += 4 + len(sealed)
    if file.read(1):
        raise Refused("bytes follow its last frame")
    if body != {"bytes": offset, "blake3": digest.hexdigest()}:
        raise Refused("its body is not the one that its header was signed for")


def read_frame(file):
    """The next frame of a body: whether it is the last one, and its sealed bytes."""
    (word,) = struct.unpack("<I", read_exactly(file, 4))
    last, size = bool(word >> 31), word & 0x7FFF_FFFF
    if not SEALED_MIN <= size <= SEALED_MAX:
        raise Refused(f"a frame has {size} sealed bytes")
    return last, read_exactly(file, size)


def frame_word(last, sealed):
    return struct.pack("<I", last << 31 | len(sealed))


def frame_opener(repository_id, name, key):
    """Makes the function that opens the frames of one object; with `key` None they are not sealed."""
    bound_to = b"pgkeep-1\0" + repository_id + name.encode()
    decipher = unsealed_checker(bound_to) if key is None else AESGCM(key).decrypt

    def open_frame(offset, last, sealed, content_max=CONTENT_MAX):
        nonce = struct.pack("<QB3x", offset, last)
        try:
            return decode(decipher(nonce, sealed, bound_to), content_max)
        except InvalidTag:
            raise Refused(f"its frame at {offset} is damaged, or belongs elsewhere") from None

    return open_frame


def unsealed_checker(bound_to):
    """What AESGCM.decrypt is to sealed frames: it detects accidents, not attackers."""
    key = blake3(bound_to, derive_key_context="pgkeep 1 unsealed frame").digest()

    def check(nonce, data, _):
        plain, tag = data[:-16], data[-16:]
        if blake3(nonce + plain, key=key).digest(16) != tag:
            raise InvalidTag
        return plain

    return check


def decode(plain, content_max):
    """The content of a frame, from its plaintext."""
    codec, transform, dictionary, length = struct.unpack_from("<BBHI", plain)
    content = plain[8:]
    if codec > 1 or transform or dictionary:
        raise Refused("a frame is encoded in a way that version 1 does not know")
    if length > content_max:
        raise Refused(f"a frame announces {length} bytes, and {content_max} are allowed")
    if codec == 1:
        content = decompress(content, length)
    if len(content) != length:
        raise Refused(f"a frame decodes to {len(content)} bytes instead of {length}")
    return content


def decompress(encoded, length):
    """One zstd frame; allocates no more than was announced."""
    try:
        if zstandard.get_frame_parameters(encoded).content_size not in (length, zstandard.CONTENTSIZE_UNKNOWN):
            raise Refused(f"a zstd frame does not hold {length} bytes")
        decompressor = zstandard.ZstdDecompressor(max_window_size=2 * CONTENT_MAX)
        return decompressor.decompress(encoded, max_output_size=max(length, 1), allow_extra_data=False)
    except zstandard.ZstdError as fault:
        raise Refused(f"a zstd frame does not decode: {fault}") from None


def read_exactly(file, size):
    data = file.read(size)
    if len(data) != size:
        raise Refused("it has been cut short")
    return data
