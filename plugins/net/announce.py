"""Tell the network where an address is now: an ARP announcement (RFC 5227 section 3) and an unsolicited neighbour
advertisement (RFC 4861 section 7.2.6), sent out of the uplink in the container's name.

Switches and other servers' bridges learn the way from them; who held the address elsewhere is forgotten at once.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading

from hostler.core.errors import HostFailure
from hostler.core.specs import Link

_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD  # EtherTypes
_ICMPV6, _ADVERTISEMENT, _OVERRIDE, _TARGET_LINK_LAYER = 58, 136, 0x20000000, 2
_ALL_NODES = ipaddress.IPv6Address("ff02::1")


def frames(link: Link) -> list[bytes]:
    """One Ethernet frame for each address of a link."""
    mac = bytes.fromhex(link.mac.replace(":", ""))
    addresses = [ipaddress.ip_interface(address).ip for address in link.addresses]
    return [_arp(mac, address) if isinstance(address, ipaddress.IPv4Address) else _advertisement(mac, address) for address in addresses]


def _arp(mac: bytes, address: ipaddress.IPv4Address) -> bytes:
    body = struct.pack("!HHBBH", 1, _IPV4, 6, 4, 1) + mac + address.packed + bytes(6) + address.packed
    return b"\xff" * 6 + mac + _ARP.to_bytes(2, "big") + body


def _advertisement(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    option = bytes([_TARGET_LINK_LAYER, 1]) + mac
    head, tail = struct.pack("!BB", _ADVERTISEMENT, 0), struct.pack("!I", _OVERRIDE) + address.packed + option
    length = len(head) + 2 + len(tail)
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!II", length, _ICMPV6)
    message = head + struct.pack("!H", checksum(pseudo + head + bytes(2) + tail)) + tail
    packet = struct.pack("!IHBB", 6 << 28, length, _ICMPV6, 255) + address.packed + _ALL_NODES.packed + message
    return b"\x33\x33" + _ALL_NODES.packed[12:] + mac + _IPV6.to_bytes(2, "big") + packet


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


class Announcer:
    """Sends frames out of one interface of the network namespace in which it first did so.

    Its socket stays open: closing a packet socket waits for an RCU grace period, tens of ms. It receives nothing.
    """

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def announce(self, link: Link, interface: str = "") -> None:
        """Send the frames of a link, out of another interface where one is given. Raises :class:`HostFailure`."""
        out = interface or self._interface
        try:
            for frame in frames(link):
                self._opened().sendto(frame, (out, 0))
        except OSError as error:
            raise HostFailure(
                f"cannot announce {', '.join(link.addresses)} on {out}: {error.strerror}",
                hint="is the uplink up? `ip link` tells",
            ) from error

    def _opened(self) -> socket.socket:
        with self._lock:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            return self._socket

    def close(self) -> None:
        """Close the socket, if there is one."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
