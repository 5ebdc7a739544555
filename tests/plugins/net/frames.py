"""Frames that tenants might send, honest and not."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import time

from hostler_plugins.net.announce import checksum
from tests.plugins.net.world import Container

ETH_P_ALL = 3
BROADCAST = b"\xff" * 6


def mac(text: str) -> bytes:
    """Six bytes."""
    return bytes.fromhex(text.replace(":", ""))


def ethernet(destination: bytes, source: bytes, kind: int, body: bytes) -> bytes:
    """A frame, padded as Ethernet wants."""
    return destination + source + kind.to_bytes(2, "big") + body.ljust(46, b"\0")


def udp4(source: str, destination: str, payload: bytes, *, ports: tuple[int, int] = (4000, 4000)) -> bytes:
    """An IPv4 packet."""
    datagram = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, socket.IPPROTO_UDP, 0)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return head[:10] + checksum(head + addresses).to_bytes(2, "big") + addresses + datagram


def ip6(source: str, destination: str, protocol: int, body: bytes, *, checksum_at: int) -> bytes:
    """An IPv6 packet with the checksum of its payload set."""
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed
    pseudo = addresses + struct.pack("!II", len(body), protocol)
    value = checksum(pseudo + body) or 0xFFFF
    body = body[:checksum_at] + value.to_bytes(2, "big") + body[checksum_at + 2 :]
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, 255) + addresses + body


def udp6(source: str, destination: str, payload: bytes, *, ports: tuple[int, int] = (4000, 4000)) -> bytes:
    """An IPv6 packet."""
    return ip6(source, destination, socket.IPPROTO_UDP, struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload, checksum_at=6)


def neighbour(kind: int, source: str, destination: str, target: str, source_mac: bytes) -> bytes:
    """A neighbour solicitation (135) or advertisement (136)."""
    option = bytes([1 if kind == 135 else 2, 1]) + source_mac
    flags = 0x60000000 if kind == 136 else 0
    return ip6(source, destination, 58, struct.pack("!BBHI", kind, 0, 0, flags) + ipaddress.IPv6Address(target).packed + option, checksum_at=2)


def arp(operation: int, sender_mac: bytes, sender: str, target_mac: bytes, target: str) -> bytes:
    """An ARP body."""
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return head + sender_mac + socket.inet_aton(sender) + target_mac + socket.inet_aton(target)


def send(wire: socket.socket, frame: bytes) -> None:
    """Put a frame on the wire; where the sender's own link drops it, the kernel says so."""
    try:
        wire.send(frame)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise


def arrives(frame: bytes, sender: Container, receiver: Container, *, token: bytes | None = None) -> bool:
    """Whether a frame that the sender puts on its interface is seen by the receiver.

    An honest frame follows it; when that one has come, the first would have. ``token``: look for this instead of the whole.
    """
    marker = f"marker {time.monotonic_ns()}".encode()
    honest = ethernet(mac(receiver.link.mac), mac(sender.link.mac), 0x0800, udp4(sender.v4, receiver.v4, marker))
    with (
        receiver.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as seen,
        sender.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire,
    ):
        seen.bind((receiver.link.name, ETH_P_ALL))
        wire.bind((sender.link.name, 0))
        send(wire, frame)
        wire.send(honest)
        found = False
        while True:
            data = seen.recv(2000)
            found = found or (token or frame) in data
            if marker in data:
                return found
