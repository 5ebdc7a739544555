"""What a chunk goes through on its way to the stream and back: zeros left out, zstd, then encryption.

Encryption is the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015; as in age and Tink): each chunk is sealed by
itself, under a nonce of the part's index, the chunk's number and whether it is the last, so that none can be cut,
reordered or moved to another part unseen. Nonces cannot repeat: the key is of one file alone, derived from the
installation's key, 32 random bytes, and the digest of the manifest, which is thereby authenticated too.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from hostler.core.errors import Invalid
from hostler.mobility.frames import COMPRESSED, LAST, TAG_BYTES, ZEROS, Chunk, damaged, label
from hostler.mobility.keys import Key
from hostler.mobility.manifest import CHUNK, Cipher, Encryption, Filters

_NONCE = struct.Struct(">IIxxxB")
_CIPHERS: Final[dict[Cipher, type[AESGCM] | type[ChaCha20Poly1305]]] = {
    Cipher.AES_256_GCM: AESGCM,
    Cipher.CHACHA20_POLY1305: ChaCha20Poly1305,
}
_ZEROS: Final = memoryview(bytes(1 << 20))
#: Below this nothing is gained by compressing.
_WORTH_IT: Final = 64

Sealer = AESGCM | ChaCha20Poly1305


@dataclass(frozen=True)
class Place:
    """Where a chunk stands in the stream."""

    part: int
    number: int

    def nonce(self, last: bool) -> bytes:
        """96 bits: enough for parts of 2³² chunks, a pebibyte."""
        return _NONCE.pack(self.part, self.number, last)


def sealer(encryption: Encryption | None, key: Key | None, digest: bytes) -> Sealer | None:
    """What encrypts and decrypts the chunks of the file whose manifest has ``digest``. Raises :class:`Invalid` without the right key."""
    if encryption is None:
        return None
    if key is None:
        raise Invalid(f"the checkpoint is encrypted with key {encryption.key_id}", hint="name the key's file")
    if key.id != encryption.key_id:
        raise Invalid(f"the checkpoint is encrypted with key {encryption.key_id}; the key given is {key.id}", hint="name the file of the right key")
    purpose = b"hostler checkpoint file key\0" + encryption.cipher.encode() + b"\0" + digest
    return _CIPHERS[encryption.cipher](key.derive(bytes.fromhex(encryption.salt), purpose))


class Packer:
    """One chunk's buffers on its way in; used by one thread at a time, and again for the next chunk."""

    def __init__(self, filters: Filters, seal: Sealer | None) -> None:
        self._original = bytearray(filters.chunk)
        self.original = memoryview(self._original)
        self._seal = seal
        self._sealed = memoryview(bytearray(filters.chunk + TAG_BYTES if seal else 0))
        self._zstd = zstandard.ZstdCompressor(level=filters.level, write_checksum=False) if filters.level else None

    def pack(self, length: int, place: Place, last: bool) -> tuple[Chunk, bytes | memoryview]:
        """The chunk of the first ``length`` bytes of ``original``: its header and what is stored, valid until the next call."""
        flags, data = self._squeezed(length)
        flags |= LAST if last else 0
        if self._seal is not None:
            count = self._seal.encrypt_into(place.nonce(last), data, label(flags, length), self._sealed[: len(data) + TAG_BYTES])
            data = self._sealed[:count]
        return Chunk(flags, length, len(data), hashlib.sha256(data).digest()), data

    def _squeezed(self, length: int) -> tuple[int, bytes | memoryview]:
        plain = self.original[:length]
        if length and self._original.startswith(_ZEROS[:length]):
            return ZEROS, b""
        if self._zstd is not None and length >= _WORTH_IT:
            small = self._zstd.compress(plain)
            if len(small) < length:
                return COMPRESSED, small
        return 0, plain


class Unpacker:
    """One chunk's buffers on its way out; used by one thread at a time, and again for the next chunk."""

    def __init__(self, filters: Filters, seal: Sealer | None) -> None:
        self._stored = memoryview(bytearray(filters.chunk + TAG_BYTES))
        self._opened = memoryview(bytearray(filters.chunk if seal else 0))
        self._original = memoryview(bytearray(filters.chunk))
        self._seal = seal
        # A frame's header names the memory that it needs: no more than a chunk, or it is refused.
        self._zstd = zstandard.ZstdDecompressor(max_window_size=1 << 20)

    def room(self, length: int) -> memoryview:
        """Where to put a chunk's stored bytes."""
        return self._stored[:length]

    def check(self, chunk: Chunk, name: str) -> memoryview:
        """The stored bytes, once they match their digest. Raises :class:`Invalid`."""
        stored = self._stored[: chunk.stored]
        if hashlib.sha256(stored).digest() != chunk.digest:
            raise damaged(f"part {name} does not match its digest")
        return stored

    def unpack(self, chunk: Chunk, place: Place, name: str) -> tuple[memoryview, bool]:
        """The chunk's original, valid until the next call, and whether it is nothing but zeros. Raises :class:`Invalid`."""
        data = self.check(chunk, name)
        if self._seal is not None:
            data = self._open(self._seal, data, chunk, place, name)
        if chunk.flags & ZEROS:
            return _ZEROS[: chunk.original], True
        return (self._expanded(data, chunk, name) if chunk.flags & COMPRESSED else data), False

    def _open(self, seal: Sealer, data: memoryview, chunk: Chunk, place: Place, name: str) -> memoryview:
        opened = self._opened[: chunk.stored - TAG_BYTES]
        try:
            seal.decrypt_into(place.nonce(chunk.last), data, label(chunk.flags, chunk.original), opened)
        except InvalidTag as error:
            raise damaged(f"part {name} was not encrypted with this key, or was changed since") from error
        return opened

    def _expanded(self, data: memoryview, chunk: Chunk, name: str) -> memoryview:
        original = self._original[: chunk.original]
        try:
            if zstandard.frame_content_size(data) != chunk.original:
                raise damaged(f"part {name} has a chunk of another length than it says")
            count = self._zstd.stream_reader(data).readinto(original)
        except zstandard.ZstdError as error:
            raise damaged(f"part {name} cannot be decompressed: {error}") from error
        if count != chunk.original:
            raise damaged(f"part {name} has a chunk that ends early")
        return original


def chosen(level: int, key: Key | None, cipher: Cipher, salt: bytes) -> Filters:
    """The filters of a new stream. Raises :class:`Invalid` for a level that zstd does not know."""
    if not -100 <= level <= 22:
        raise Invalid(f"{level} is no level of compression", hint="give -100 (fast) to 22 (small), 0 for none")
    encryption = Encryption(cipher=cipher, key_id=key.id, salt=salt.hex()) if key else None
    return Filters(level=level, chunk=CHUNK, encryption=encryption)

