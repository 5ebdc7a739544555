"""Requests to rtnetlink (``rtnetlink(7)``) packed here, several in one message to the kernel: for those that a container waits for.

A request by way of pyroute2 takes 0.5 ms of a processor, one of these a hundredth of it. :mod:`.netlink` is the door; this is its letter box.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NEWLINK, GETLINK, SETLINK, NEWADDR, NEWROUTE, DELROUTE, GETROUTE, NEWNEIGH, DELNEIGH, GETNEIGH = 16, 18, 19, 20, 24, 25, 26, 28, 29, 30  # linux/rtnetlink.h
REPLACE, EXCLUSIVE, DUMP, CREATE = 0x100, 0x200, 0x300, 0x400  # linux/netlink.h, as are all that follow
_REQUEST, _ACKNOWLEDGE = 0x1, 0x4
_ERROR, _DONE, _NESTED = 2, 3, 0x8000
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_WORDS = 1  # NLMSGERR_ATTR_MSG
_HEADER = struct.Struct("=IHHII")
#: Seconds for the kernel's answer, which is there when the request was sent.
_PATIENCE = 10.0


@dataclass(frozen=True)
class Request:
    """``kind`` with its fixed part and attributes. ``what`` completes "cannot …"."""

    what: str
    kind: int
    body: bytes
    flags: int = 0


class Refusal(Exception):
    """The kernel's no: the request, an errno, and the kernel's own words if it has any."""

    def __init__(self, request: Request, number: int, words: str) -> None:
        super().__init__(words or os.strerror(number))
        self.request = request
        self.number = number


def attribute(number: int, value: bytes | int | str) -> bytes:
    """A ``struct rtattr``: bytes as they are, an int of 32 bits, a text with its NUL."""
    packed = struct.pack("=I", value) if isinstance(value, int) else value.encode() + b"\0" if isinstance(value, str) else value
    return struct.pack("=HH", 4 + len(packed), number) + packed + bytes(-len(packed) % 4)


def nested(number: int, *inner: bytes) -> bytes:
    """An attribute of attributes."""
    return attribute(number | _NESTED, b"".join(inner))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and values of attributes in a row."""
    while len(data) >= 4:
        length, number = struct.unpack_from("=HH", data)
        if not 4 <= length <= len(data):
            return
        yield number & ~_NESTED, data[4:length]
        data = data[(length + 3) & ~3 :]


class Mailbox:
    """A socket in the network namespace that the calling thread is in now. Closing it costs nothing."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(_PATIENCE)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._number = 0

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    def send(self, requests: Sequence[Request]) -> list[bytes]:
        """Make requests in their order; what the kernel answers to those that ask, as bodies of messages.

        All are tried. Raises :class:`Refusal` for the first that fails, and :class:`OSError`.
        """
        first = self._number + 1
        letters = [self._pack(request) for request in requests]
        if letters:
            self._socket.send(b"".join(letters))
        answers: list[bytes] = []
        refusals: list[Refusal] = []
        left = len(letters)
        while left:
            for kind, number, body in self._received():
                if kind not in (_ERROR, _DONE):
                    answers.append(body)
                    continue
                left -= 1
                failure = -struct.unpack_from("=i", body)[0]
                if failure:
                    words = dict(attributes(body[4 + _HEADER.size :])).get(_WORDS, b"")
                    refusals.append(Refusal(requests[number - first], failure, words.rstrip(b"\0").decode(errors="replace")))
        if refusals:
            raise refusals[0]
        return answers

    def _pack(self, request: Request) -> bytes:
        self._number += 1
        return _HEADER.pack(_HEADER.size + len(request.body), request.kind, request.flags | _REQUEST | _ACKNOWLEDGE, self._number, 0) + request.body

    def _received(self) -> Iterator[tuple[int, int, bytes]]:
        data = self._socket.recv(1 << 16)
        while len(data) >= _HEADER.size:
            length, kind, _, number, _ = _HEADER.unpack_from(data)
            yield kind, number, data[_HEADER.size : length]
            data = data[(length + 3) & ~3 :]
