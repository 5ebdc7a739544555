"""Rooms in which packets wait for a container that is on its way here, or that stands still.

A room is a TAP or TUN device that nobody reads. To open it is to lead to it what is for the link's addresses, by the same entry (of a
bridge's forwarding table, of the routes) that leads to the link otherwise. The kernel replaces that entry in one step: so each packet
either waits or reaches the link, none does both, and none is lost in between. What waited is then put back where the packets of the network come
from, so the guard and the tenant's firewall judge it like any other.

A room holds :data:`PACKETS`, or what fits :data:`BYTES`, for :data:`SECONDS`; what comes when it is full is lost. It goes with its worker.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from hostler.core.specs import Link
from hostler.host.netlink import LinkState, Netlink
from hostler.host.tap import Instruction, Tap

log = structlog.get_logger()

PACKETS, BYTES, SECONDS = 4096, 8 << 20, 10.0

_HEADER = 14  # of Ethernet
_LEAST, _LONGEST = 20, 1 << 16  # an IP header; what a packet's length can say
_LOAD_WORD, _LOAD_HALF, _EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06  # linux/bpf_common.h: BPF_LD+ABS, BPF_JMP+JEQ, BPF_RET
_ALL = 0xFFFFFFFF
_ETHERTYPE, _ARP, _ASKED_FOR = 12, 0x0806, 38  # offsets in a frame; the last is of ARP's target address


def depth(mtu: int) -> int:
    """Packets that a room may hold."""
    return min(PACKETS, BYTES // (mtu + _HEADER))


# --- what waits ---


def sieve(link: Link) -> list[Instruction]:
    """Of the frames that get to a room on a bridge: those to the link's MAC, and who asks for its addresses. The rest is others'."""
    addresses = [ipaddress.ip_interface(address).ip for address in link.addresses]
    program = _when_to(_octets(link.mac))
    for address in addresses:
        if address.version == 4:
            program += _when(_Part(_LOAD_HALF, _ETHERTYPE, _ARP), _Part(_LOAD_WORD, _ASKED_FOR, int(address)))
        else:  # the multicast group of those who are asked for (RFC 4291 section 2.7.1)
            program += _when_to(b"\x33\x33\xff" + address.packed[-3:])
    return [*program, Instruction(_RETURN, 0)]


@dataclass(frozen=True)
class _Part:
    load: int
    at: int
    value: int


def _when_to(mac: bytes) -> list[Instruction]:
    return _when(_Part(_LOAD_WORD, 0, int.from_bytes(mac[:4], "big")), _Part(_LOAD_HALF, 4, int.from_bytes(mac[4:], "big")))


def _when(first: _Part, second: _Part) -> list[Instruction]:
    """Accept a frame of which both are so; else go on behind this."""
    return [
        Instruction(first.load, first.at),
        Instruction(_EQUAL, first.value, if_false=3),
        Instruction(second.load, second.at),
        Instruction(_EQUAL, second.value, if_false=1),
        Instruction(_RETURN, _ALL),
    ]


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


# --- on a bridge ---


def join(host: Netlink, tap: Tap, link: Link, bridge: LinkState, alias: str) -> None:
    """Make a room a port of a bridge to which the link's frames go."""
    tap.admit(sieve(link))
    index = host.index(tap.name)
    host.set_link(index, master=bridge.index, mtu=bridge.mtu, alias=alias, queue=depth(bridge.mtu), up=True, own_ipv6=False)
    host.close_port(index)
    host.place_mac(index, link.mac)


def put_frames(tap: Tap, link: Link, frames: Iterable[bytes]) -> None:
    """Let frames come to the bridge by the room. Also those to everybody go to the link alone: others have had them."""
    mac = _octets(link.mac)
    for frame in frames:
        tap.put(mac + frame[len(mac) :])


# --- on a router ---

_IPV6_HDRINCL = 36  # linux/in6.h


def put_packets(link: Link, packets: Iterable[bytes]) -> None:
    """Send IP packets to the link's addresses as they are, from this server. Others are none that waited."""
    own = {address.packed: str(address) for address in (ipaddress.ip_interface(text).ip for text in link.addresses)}
    with contextlib.ExitStack() as stack:
        ways = {version: stack.enter_context(_way(version)) for version in {4 if len(packed) == 4 else 6 for packed in own}}
        refused, why = 0, None
        for packet in packets:
            version = packet[0] >> 4
            target = own.get(packet[24:40] if version == 6 else packet[16:20])
            if target is not None:
                try:
                    ways[version].sendto(packet, socket.MSG_DONTWAIT, (target, 0))
                except OSError as error:  # the tenant's firewall says no, or a queue is full
                    refused, why = refused + 1, error.strerror
        if refused:
            log.info("packets that waited were dropped", link=link.name, packets=refused, last=why)


def _way(version: int) -> socket.socket:
    way = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    if version == 6:
        way.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
    return way


# --- the rooms of a driver ---


@dataclass
class Room:
    """An open one. ``expired`` is called in a thread of its own if it is still open after :data:`SECONDS`."""

    tap: Tap
    link: Link
    expired: Callable[[], None]
    earlier: list[bytes] = field(default_factory=list)
    """What came for the link elsewhere."""

    def bring(self, packets: Sequence[bytes]) -> None:
        """Take in what came elsewhere, as far as there is room for it."""
        size = 0
        for packet in packets[:PACKETS]:
            size += len(packet)
            if _LEAST <= len(packet) <= _LONGEST and size <= BYTES:
                self.earlier.append(packet)

    def emptied(self) -> Iterator[bytes]:
        """All that waits, oldest first. It waits no longer."""
        earlier, self.earlier = self.earlier, []
        yield from earlier
        yield from self.tap.waiting(PACKETS)

    def __post_init__(self) -> None:
        self.timer = threading.Timer(SECONDS, self.expired)
        self.timer.daemon = True


class Rooms:
    """Those of one driver object, by the names of their links. Who takes one out has it alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Room] = {}
        self._closing: list[threading.Thread] = []

    def add(self, link: str, room: Room) -> None:
        """Its time begins."""
        with self._lock:
            self._open[link] = room
        room.timer.start()

    def take(self, link: str) -> Room | None:
        """Take a room out; None where there is none."""
        with self._lock:
            room = self._open.pop(link, None)
        if room is not None:
            room.timer.cancel()
        return room

    def get(self, link: str) -> Room | None:
        """A room that stays where it is."""
        with self._lock:
            return self._open.get(link)

    def names(self, prefix: str = "") -> list[str]:
        """Links that have a room, and whose names begin with ``prefix``."""
        with self._lock:
            return [link for link in self._open if link.startswith(prefix)]

    def close_soon(self, room: Room) -> None:
        """Close one that was taken out, in a thread of its own: it takes the kernel a while, and a container waits."""
        thread = threading.Thread(target=room.tap.close, name="waiting-room", daemon=True)
        with self._lock:
            thread.start()
            self._closing = [*(other for other in self._closing if other.is_alive()), thread]

    def settle(self) -> None:
        """Wait until what is being closed is gone."""
        with self._lock:
            closing = list(self._closing)
        for thread in closing:
            thread.join()

    def close(self) -> None:
        """Close all."""
        for link in self.names():
            room = self.take(link)
            if room is not None:
                room.tap.close()
        self.settle()
