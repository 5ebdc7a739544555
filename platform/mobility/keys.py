"""Keys that checkpoints are encrypted with: 32 random bytes, from the settings or a file of root's own.

``head -c 32 /dev/urandom > key`` makes one; ``openssl rand -hex 32`` makes one that can be printed.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hostler.core.errors import Invalid, NotFound

KEY_BYTES: Final = 32
_LONGEST_FILE = 4096
_HEX = re.compile(r"[0-9A-Fa-f]*")
_MAKE = "make one with: openssl rand -hex 32"


class Key:
    """A secret of 32 bytes, which shows itself nowhere; ``id`` names it: 16 hex digits, derived, of no help to find it."""

    __slots__ = ("_secret", "id")

    def __init__(self, secret: bytes) -> None:
        """Raises :class:`Invalid` if it has not 32 bytes, or is too plain to be random."""
        if len(secret) != KEY_BYTES:
            raise Invalid(f"a checkpoint key has {KEY_BYTES} bytes, this one has {len(secret)}", hint=_MAKE)
        if len(set(secret)) < 8:
            raise Invalid("this checkpoint key is no random one", hint=_MAKE)
        self._secret = bytes(secret)
        self.id = self.derive(b"", b"hostler checkpoint key id", 8).hex()

    def derive(self, salt: bytes, purpose: bytes, length: int = KEY_BYTES) -> bytes:
        """Another secret that this one, ``salt`` and ``purpose`` alone decide: HKDF with SHA-256 (RFC 5869)."""
        return HKDF(algorithm=SHA256(), length=length, salt=salt, info=purpose).derive(self._secret)

    def __repr__(self) -> str:
        return f"Key(id={self.id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other._secret == self._secret

    def __hash__(self) -> int:
        return hash(self.id)


def parse_key(text: str) -> Key:
    """Key of 64 hex digits, or of base64 in either alphabet. Raises :class:`Invalid`; the text is in no message."""
    plain = "".join(text.split())
    if len(plain) == 2 * KEY_BYTES and _HEX.fullmatch(plain):
        return Key(bytes.fromhex(plain))
    if _HEX.fullmatch(plain):
        raise Invalid(f"a checkpoint key has 64 hex digits, this one has {len(plain)}", hint=_MAKE)
    standard = plain.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        secret = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("the checkpoint key is neither hex nor base64", hint=_MAKE) from error
    return Key(secret)


def read_key(path: Path) -> Key:
    """Key of a file with 32 raw bytes, hex or base64.

    The file must be a regular one of root or this user which nobody else may read. Raises :class:`NotFound`, :class:`Invalid`.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFound(f"there is no checkpoint key at {path}", hint=f"openssl rand -hex 32 > {path}; chmod 600 {path}") from error
    except OSError as error:
        raise Invalid(f"the checkpoint key {path} cannot be read: {error.strerror}", hint="name a regular file, no link") from error
    try:
        _check_file(path, os.fstat(handle))
        content = os.read(handle, _LONGEST_FILE + 1)
    finally:
        os.close(handle)
    return _of_content(content, path)


def key_of(text: str, path: Path | None) -> Key | None:
    """The key that settings name, by itself or by its file; None where they name none. Raises :class:`Invalid` for both, and as the others do."""
    if text and path is not None:
        raise Invalid("a checkpoint key and a file of one are set", hint="set one of HOSTLER_CHECKPOINT_KEY and HOSTLER_CHECKPOINT_KEY_FILE")
    if text:
        return parse_key(text)
    return read_key(path) if path is not None else None


def _check_file(path: Path, about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise Invalid(f"the checkpoint key {path} is no regular file", hint="name a file with 32 bytes, hex or base64")
    if about.st_mode & 0o077:
        raise Invalid(f"others may read or change the checkpoint key {path} (mode {stat.S_IMODE(about.st_mode):04o})", hint=f"chmod 600 {path}")
    if about.st_uid not in (0, os.geteuid()):
        raise Invalid(f"the checkpoint key {path} belongs to user {about.st_uid}", hint=f"chown root {path}")


def _of_content(content: bytes, path: Path) -> Key:
    """32 bytes are the key itself, unless they read as hex: then half a key was meant."""
    if len(content) == KEY_BYTES and not re.fullmatch(rb"[0-9A-Fa-f\s]*", content):
        return Key(content)
    try:
        return parse_key(content[: _LONGEST_FILE].decode("ascii"))
    except UnicodeDecodeError as error:
        raise Invalid(f"the checkpoint key {path} has {len(content)} bytes and is no text", hint=f"give 32 bytes, hex or base64; {_MAKE}") from error
    except Invalid as error:
        raise Invalid(f"{path}: {error.message}", hint=error.hint) from error
