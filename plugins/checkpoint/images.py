"""CRIU's images of one container made those of another: a clone has a host name and addresses of its own.

Inside a user namespace all is dumped as it is seen inside; so beside the host ids (:mod:`hostler_plugins.checkpoint.userns`) two things alone tell whose
the images are:

* ``utsns-N.img``: the host name (``utsns_entry``: nodename = 1);
* ``files.img``: addresses that sockets are bound to (``file_entry``: isk = 4, an ``inet_sk_entry``: src_port = 7, src_addr = 11).

An image is two words of magic and entries, each a length of four bytes and a message (https://criu.org/Images, images/\\*.proto). One that
looks otherwise is refused: better no clone than one with another's ids.
"""

from __future__ import annotations

import ipaddress
import os
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from hostler.contracts.checkpoint import Renaming
from hostler.core.errors import Conflict
from hostler_plugins.checkpoint.protobuf import Field, Malformed, encode, parse

_COMMON: Final = 0x54564319
_UTS, _FILES = 0x54473203, 0x56303138
_NODENAME = 1
_INET_SOCKET, _SRC_PORT, _SRC_ADDR = 4, 7, 11


def rename(images: Path, to: Renaming) -> None:
    """See :meth:`hostler.contracts.checkpoint.Checkpoint.rename`."""
    new = [
        _rewritten(_only(images, "utsns-*.img"), _UTS, lambda entry: with_hostname(entry, to.hostname)),
        _rewritten(images / "files.img", _FILES, lambda entry: with_addresses(entry, to.addresses)),
    ]
    for path, content in new:
        draft = path.with_name(f".{path.name}")
        draft.write_bytes(content)
        os.replace(draft, path)


def with_hostname(entry: bytes, name: str) -> bytes:
    """A ``utsns_entry`` of another host name. Pure. Raises :class:`Malformed`."""
    fields = parse(entry)
    if [field.number for field in fields].count(_NODENAME) != 1:
        raise Malformed("it has no host name")
    return encode(replace(field, value=name.encode()) if field.number == _NODENAME else field for field in fields)


def with_addresses(entry: bytes, addresses: Mapping[str, str]) -> bytes:
    """A ``file_entry`` whose socket, if it is one and bound to one of ``addresses``, is bound to its counterpart. Pure.

    Raises :class:`Conflict` where there is no counterpart, :class:`Malformed`."""
    fields = parse(entry)
    if not any(field.number == _INET_SOCKET for field in fields):
        return entry
    known = {ipaddress.ip_address(old).packed: new for old, new in addresses.items()}
    return encode(
        replace(field, value=encode(_bound(parse(field.message), known))) if field.number == _INET_SOCKET else field for field in fields
    )


def _bound(socket: list[Field], known: Mapping[bytes, str]) -> list[Field]:
    """CRIU keeps an address as one or four words of the machine's own byte order."""
    words = [field.integer for field in socket if field.number == _SRC_ADDR]
    if len(words) not in (1, 4):
        raise Malformed(f"a socket's address has {len(words)} words")
    bound = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    mapped = bound[:12] == b"\0" * 10 + b"\xff\xff"  # an IPv4 address on an IPv6 socket
    plain = bound[12:] if mapped else bound
    if plain not in known:
        return socket
    if not known[plain]:
        port = next((field.integer for field in socket if field.number == _SRC_PORT), 0)
        raise Conflict(
            f"a program is bound to its own address {ipaddress.ip_address(plain)} (port {port}), for which the clone has no other",
            hint="have it listen on 0.0.0.0 or ::, or give the clone an address of that kind", code="cannot_clone",
        )
    new = ipaddress.ip_address(known[plain]).packed
    if len(new) != len(plain):
        raise Malformed(f"{known[plain]} is no address of the kind of {ipaddress.ip_address(plain)}")
    whole = bound[:12] + new if mapped else new
    fresh = iter(int.from_bytes(whole[at : at + 4], sys.byteorder) for at in range(0, len(whole), 4))
    return [replace(field, value=next(fresh)) if field.number == _SRC_ADDR else field for field in socket]


def read_entries(content: bytes, magic: int) -> list[bytes]:
    """The messages of an image of that kind. Pure. Raises :class:`Malformed`."""
    if len(content) < 8 or struct.unpack_from("<II", content) != (_COMMON, magic):
        raise Malformed("it begins with another magic")
    found, at = [], 8
    while at < len(content):
        if at + 4 > len(content):
            raise Malformed("it ends inside a length")
        (length,) = struct.unpack_from("<I", content, at)
        if at + 4 + length > len(content):
            raise Malformed("it ends inside an entry")
        found.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def write_entries(entries: list[bytes], magic: int) -> bytes:
    """The image of such messages. Pure."""
    return struct.pack("<II", _COMMON, magic) + b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)


def _rewritten(path: Path, magic: int, change: Callable[[bytes], bytes]) -> tuple[Path, bytes]:
    try:
        entries = read_entries(path.read_bytes(), magic)
        if magic != _FILES and len(entries) != 1:
            raise Malformed(f"it has {len(entries)} entries")
        return path, write_entries([change(entry) for entry in entries], magic)
    except Malformed as error:
        raise _refused(f"{path.name}: {error}") from error


def _only(images: Path, pattern: str) -> Path:
    found = sorted(images.glob(pattern))
    if len(found) != 1:
        raise _refused(f"there are {len(found)} images {pattern}")
    return found[0]


def _refused(why: str) -> Conflict:
    return Conflict(
        f"this checkpoint cannot be given another name and address: {why}", hint="it was written by a CRIU that this Hostler does not know: take another checkpoint",
        code="cannot_clone",
    )
