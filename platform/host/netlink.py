"""The door to rtnetlink, through pyroute2, which nothing else in Hostler imports; and through :mod:`.rtnl` for what containers wait for.

A socket belongs to the thread that opened it and to the network namespace that thread was in. It is therefore opened for
one piece of work and closed with it; to work elsewhere, open it inside :func:`hostler.host.netns.entered`.
All failures are :class:`HostFailure`, with what was tried and the kernel's own words; ``stable_code`` tells absence and existence.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from hostler.core.errors import HostFailure
from hostler.host import netns, rtnl
from hostler.host.rtnl import Mailbox, Refusal, Request, attribute, nested

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Interface and object names: IFNAMSIZ less the final NUL.
NAME_LIMIT = 15
#: Bytes per second beyond which the kernel's 32-bit ``tbf`` rate does not reach (34 Gbit/s).
RATE_LIMIT = 2**32 - 1

_ABSENT = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})
_DOOMED = 1 << 30  # groups of interfaces that are deleted together; operators use small numbers
_IFINFO, _IFADDR, _RTMSG, _NDMSG = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=BBBBBBBBI"), struct.Struct("=BxxxiHBB")
# Attributes: linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h, linux/neighbour.h, linux/veth.h
_ADDRESS, _IFNAME, _MTU, _MASTER, _PROTINFO, _QUEUE, _OPERSTATE, _INFO, _ALIAS, _STATS, _AF_SPEC, _NETNS_FD = 1, 3, 4, 10, 12, 13, 16, 18, 20, 23, 26, 28
_OPERATIONAL = b"\6"  # linux/if.h: IF_OPER_UP
_KIND, _DATA, _VETH_PEER, _ADDR_GEN_MODE, _PORT_LEARNING, _PORT_FLOOD = 1, 2, 1, 8, 8, 9
_ADDR_ADDRESS, _ADDR_LOCAL, _ADDR_FLAGS = 1, 2, 8
_DST, _OIF, _GATEWAY, _PRIORITY = 1, 4, 5, 6
_ND_DST, _LLADDR = 1, 2
_IFA_F_NODAD = 0x02  # linux/if_addr.h
_ADDR_GEN_MODE_NONE = 1  # linux/if_link.h: IN6_ADDR_GEN_MODE_NONE
_IFF_NOARP = 0x80  # linux/if.h
_NUD_PERMANENT, _NUD_INCOMPLETE, _NTF_USE, _NTF_PROXY = 0x80, 0x01, 0x01, 0x08  # linux/neighbour.h
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253  # linux/rtnetlink.h
_PROTO_STATIC, _RTN_UNICAST, _ONLINK = 4, 1, 4  # linux/rtnetlink.h
_AF_BRIDGE, _NTF_MASTER = 7, 0x04
_NUD_NOARP = 0x40  # linux/neighbour.h: a bridge's static entry; NUD_PERMANENT would mean the bridge's own address
_PROTO_KERNEL, _PROTO_RA = 2, 9  # linux/rtnetlink.h: routes that the kernel makes by itself
_TABLE_MAIN, _RTN_LOCAL = 254, 2  # linux/rtnetlink.h
_TC_ROOT = 0xFFFFFFFF
_TC_INGRESS_FILTERS = 0xFFFFFFF2  # TC_H_CLSACT with TC_H_MIN_INGRESS
_TC_FIRST = 0x10000  # handle 1:
_ETH_P_ALL = 3


@dataclass(frozen=True)
class LinkState:
    """An interface as the kernel tells of it. Counters are its own: ``rx`` is what it received."""

    index: int
    name: str
    kind: str
    """Such as ``veth`` and ``bridge``; empty for hardware and ``lo``."""
    mac: str
    mtu: int
    up: bool
    """Administratively."""
    operational: bool
    """Packets flow: it is up, its other end is, and a bridge forwards through it."""
    master: int | None
    alias: str
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0


@dataclass(frozen=True)
class Route:
    """A route by way of a gateway, in the main table."""

    destination: str
    """With prefix length; empty is the default route."""
    gateway: Address
    metric: int | None


class Netlink:
    """An open socket. Not to be given to another thread."""

    def __init__(self, mailbox: Mailbox, home: int) -> None:
        self._mailbox = mailbox
        self._home = home
        self._opened: Any = None

    @property
    def _route(self) -> Any:
        """pyroute2's socket, opened when it is needed first: it costs 0.4 ms."""
        if self._opened is None:
            with _said("open a netlink socket"), netns.entered(self._home):
                self._opened = IPRoute(ext_ack=True, strict_check=True)
        return self._opened

    def close(self) -> None:
        """Idempotent."""
        self._mailbox.close()
        if self._opened is not None:
            self._opened.close()

    def _ask(self, *requests: Request) -> list[bytes]:
        try:
            return self._mailbox.send(requests)
        except Refusal as error:
            raise HostFailure(
                f"cannot {error.request.what}: {error}", hint=_hint(error.number), code="absent" if error.number in _ABSENT else "netlink_failed"
            ) from error
        except OSError as error:
            raise HostFailure(f"cannot {requests[0].what}: {error.strerror or error}", hint=_hint(error.errno or 0), code="netlink_failed") from error

    # --- links ---

    def index(self, name: str) -> int:
        """Raises :class:`HostFailure` (code ``absent``) when there is no such interface."""
        found = index(name)
        if found is None:
            raise HostFailure(f"there is no interface {name}", code="absent")
        return found

    def link(self, name: str) -> LinkState | None:
        """The interface of this name, or None. Asking makes the kernel finish a change of its carrier first."""
        return self._link(name, _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFNAME, name))

    def link_at(self, index: int) -> LinkState | None:
        """The interface of this index, or None."""
        return self._link(str(index), _IFINFO.pack(0, 0, index, 0, 0))

    def _link(self, which: str, body: bytes) -> LinkState | None:
        try:
            return _state(self._ask(Request(f"look at interface {which}", rtnl.GETLINK, body))[0])
        except HostFailure as error:
            if absent(error):
                return None
            raise

    def links(self) -> list[LinkState]:
        """All interfaces."""
        return [_state(answer) for answer in self._ask(Request("list the interfaces", rtnl.GETLINK, _IFINFO.pack(0, 0, 0, 0, 0), rtnl.DUMP))]

    def ports(self, master: int) -> list[str]:
        """Names of the interfaces that belong to a bridge."""
        with _said(f"list the ports of bridge {master}"):
            return sorted(message.get_attr("IFLA_IFNAME") for message in self._route.link("dump", master=master))

    def add_bridge(self, name: str, *, mtu: int, mac: str | None = None) -> None:
        """A bridge without spanning tree and without multicast snooping, which would need a querier. Down."""
        chosen = {} if mac is None else {"address": mac}
        with _said(f"make bridge {name}"):
            self._route.link("add", ifname=name, kind="bridge", mtu=mtu, br_stp_state=0, br_mcast_snooping=0, **chosen)

    def add_veth(
        self,
        name: str,
        peer: str,
        *,
        mtu: int,
        mac: str | None = None,
        peer_netns: int | None = None,
        peer_mac: str | None = None,
        master: int | None = None,
    ) -> None:
        """A pair, both ends down: ``name`` here, ``peer`` in the namespace of descriptor ``peer_netns``."""
        far = [attribute(_IFNAME, peer), attribute(_MTU, mtu)]
        far += [] if peer_netns is None else [attribute(_NETNS_FD, peer_netns)]
        far += [] if peer_mac is None else [attribute(_ADDRESS, _octets(peer_mac))]
        near = [attribute(_IFNAME, name), attribute(_MTU, mtu)]
        near += [] if mac is None else [attribute(_ADDRESS, _octets(mac))]
        near += [] if master is None else [attribute(_MASTER, master)]
        data = nested(_DATA, attribute(_VETH_PEER, _IFINFO.pack(0, 0, 0, 0, 0) + b"".join(far)))
        body = _IFINFO.pack(0, 0, 0, 0, 0) + b"".join(near) + nested(_INFO, attribute(_KIND, "veth"), data)
        self._ask(Request(f"make link {name}", rtnl.NEWLINK, body, rtnl.CREATE | rtnl.EXCLUSIVE))

    def add_macvlan(self, name: str, parent: int, *, mtu: int, mac: str, netns: int) -> None:
        """A child of interface ``parent`` in mode bridge, down, in the namespace of descriptor ``netns``."""
        with _said(f"make link {name}"):
            self._route.link("add", ifname=name, kind="macvlan", link=parent, macvlan_mode="bridge", mtu=mtu, address=mac, net_ns_fd=netns)

    def add_ifb(self, name: str) -> None:
        """An intermediate functional block: a device to queue what arrives on another. Down."""
        with _said(f"make device {name}"):
            self._route.link("add", ifname=name, kind="ifb")

    def add_vxlan(self, name: str, number: int, *, local: Address, port: int, mtu: int, master: int) -> None:
        """One end of a tunnel from ``local`` (RFC 7348), a port of bridge ``master``. Down; it learns where MACs are."""
        source = {"vxlan_local6" if local.version == 6 else "vxlan_local": str(local)}
        with _said(f"make tunnel {number}"):
            self._route.link("add", ifname=name, kind="vxlan", vxlan_id=number, vxlan_port=port, vxlan_learning=1, mtu=mtu, master=master, **source)

    def flood_to(self, index: int, peer: Address) -> None:
        """A tunnel sends what it knows no place for to this peer too. One that is there is a success."""
        try:
            with _said(f"add {peer} to tunnel {index}"):
                self._route.fdb("append", ifindex=index, lladdr="00:00:00:00:00:00", dst=str(peer))
        except HostFailure as error:
            if not isinstance(error.__cause__, NetlinkError) or error.__cause__.code != errno.EEXIST:
                raise

    def set_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        alias: str | None = None,
        master: int | None = None,
        queue: int | None = None,
        own_ipv6: bool = True,
    ) -> None:
        """Change what is given; ``queue`` is in packets. ``own_ipv6=False`` keeps the kernel from giving it a link-local address.
        ``master=0`` frees it."""
        found = [
            attribute(number, value)
            for number, value in ((_MTU, mtu), (_ADDRESS, mac and _octets(mac)), (_ALIAS, alias), (_MASTER, master), (_QUEUE, queue))
            if value is not None
        ]
        if not own_ipv6:
            found.append(nested(_AF_SPEC, nested(socket.AF_INET6, attribute(_ADDR_GEN_MODE, bytes([_ADDR_GEN_MODE_NONE])))))
        flags = (0, 0) if up is None else (int(up), 1)
        self._ask(Request(f"set interface {index}", rtnl.NEWLINK, _IFINFO.pack(0, 0, index, *flags) + b"".join(found)))

    def delete_link(self, name: str) -> bool:
        """Whether it was there."""
        try:
            with _said(f"delete interface {name}"):
                self._route.link("del", ifname=name)
        except HostFailure as error:
            if absent(error):
                return False
            raise
        return True

    def delete_links(self, names: Iterable[str]) -> None:
        """Delete several at once; none is a success. For each deletion the kernel waits 15 ms or more, here once for all."""
        there = {name: found for name in names if (found := index(name)) is not None}
        if len(there) < 2:
            for name in there:
                self.delete_link(name)
            return
        group = _DOOMED | min(there.values())  # an index is one interface's alone while that lives
        for name, found in there.items():
            with _said(f"set the group of interface {name}"), _gone_is_fine():
                self._route.link("set", index=found, group=group)
        with _said(f"delete interfaces {', '.join(there)}"), _gone_is_fine():
            self._route.link("del", group=group)

    # --- bridges ---

    def close_port(self, index: int) -> None:
        """Of a bridge's port nothing is learned, and what is for unknown MACs does not get to it."""
        closed = nested(_PROTINFO, attribute(_PORT_LEARNING, b"\0"), attribute(_PORT_FLOOD, b"\0"))
        self._ask(Request(f"set bridge port {index}", rtnl.SETLINK, _IFINFO.pack(_AF_BRIDGE, 0, index, 0, 0) + closed))

    def place_mac(self, index: int, mac: str) -> None:
        """What is for a MAC gets to this port of a bridge, wherever it was seen before."""
        body = _NDMSG.pack(_AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER, 0) + attribute(_LLADDR, _octets(mac))
        self._ask(Request(f"place {mac} at bridge port {index}", rtnl.NEWNEIGH, body, rtnl.CREATE | rtnl.REPLACE))

    # --- addresses and routes ---

    def addresses(self, index: int) -> list[Interface]:
        """Addresses of an interface, link-local IPv6 ones left out."""
        with _said(f"list the addresses of interface {index}"):
            found = [
                ipaddress.ip_interface(f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}")
                for message in self._route.get_addr(index=index)
            ]
        return [address for address in found if not (address.version == 6 and address.is_link_local)]

    def add_address(self, index: int, address: Interface) -> None:
        """One that is there already is a success. IPv6 is usable at once: no duplicate address detection."""
        packed = attribute(_ADDR_ADDRESS, address.ip.packed) + attribute(_ADDR_LOCAL, address.ip.packed)
        if address.version == 6:
            packed += attribute(_ADDR_FLAGS, _IFA_F_NODAD)
        body = _IFADDR.pack(_family(address), address.network.prefixlen, 0, 0, index) + packed
        self._ask(Request(f"give {address} to interface {index}", rtnl.NEWADDR, body, rtnl.CREATE | rtnl.REPLACE))

    def receives(self, address: Address) -> bool:
        """Whether packets to an address are taken as this host's own.

        With IPv6 that is later than :meth:`add_address`, which leaves the route to a work queue of the kernel.
        """
        body = _RTMSG.pack(_family(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + attribute(_DST, address.packed)
        answer = self._ask(Request(f"look up {address}", rtnl.GETROUTE, body))[0]
        return bool(_RTMSG.unpack_from(answer)[7] == _RTN_LOCAL)

    def delete_address(self, index: int, address: Interface) -> None:
        """None is a success."""
        try:
            with _said(f"take {address} from interface {index}"):
                self._route.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        except HostFailure as error:
            if not absent(error):
                raise

    def routes(self, index: int) -> list[Route]:
        """Routes that somebody set through an interface, by way of a gateway."""
        with _said(f"list the routes of interface {index}"):
            found = []
            for family in (socket.AF_INET, socket.AF_INET6):
                for message in self._route.get_routes(family=family, table=_TABLE_MAIN, oif=index):
                    gateway = message.get_attr("RTA_GATEWAY")
                    if gateway is None or message["proto"] in (_PROTO_KERNEL, _PROTO_RA) or message.get_attr("RTA_OIF") != index:
                        continue
                    destination = message.get_attr("RTA_DST")
                    found.append(
                        Route(
                            destination=f"{destination}/{message['dst_len']}" if destination else "",
                            gateway=ipaddress.ip_address(gateway),
                            metric=message.get_attr("RTA_PRIORITY"),
                        )
                    )
        return found

    def set_route(self, index: int, route: Route) -> None:
        """Set a route, in place of one to the same destination with the same metric. Its gateway is taken to be on the link."""
        to = ipaddress.ip_network(route.destination, strict=False) if route.destination else None
        packed = attribute(_OIF, index) + attribute(_GATEWAY, route.gateway.packed)
        packed += b"" if to is None else attribute(_DST, to.network_address.packed)
        packed += b"" if route.metric is None else attribute(_PRIORITY, route.metric)
        self._set_route(f"route {route.destination or 'everything'} by {route.gateway}", route.gateway, 0 if to is None else to.prefixlen, _SCOPE_UNIVERSE, packed, _ONLINK)

    def set_host_route(self, index: int, address: Address) -> None:
        """One address is behind an interface, whoever had it before."""
        packed = attribute(_OIF, index) + attribute(_DST, address.packed)
        scope = _SCOPE_UNIVERSE if address.version == 6 else _SCOPE_LINK
        self._set_route(f"route {address} to interface {index}", address, address.max_prefixlen, scope, packed)

    def _set_route(self, what: str, of: Address, length: int, scope: int, packed: bytes, flags: int = 0) -> None:
        body = _RTMSG.pack(_family(of), length, 0, 0, _TABLE_MAIN, _PROTO_STATIC, scope, _RTN_UNICAST, flags) + packed
        self._ask(Request(what, rtnl.NEWROUTE, body, rtnl.CREATE | rtnl.REPLACE))

    def delete_host_route(self, address: Address) -> None:
        """One address is behind no interface of its own. None is a success."""
        scope = _SCOPE_UNIVERSE if address.version == 6 else _SCOPE_LINK
        body = _RTMSG.pack(_family(address), address.max_prefixlen, 0, 0, _TABLE_MAIN, 0, scope, 0, 0) + attribute(_DST, address.packed)
        self._unask(Request(f"route {address} like its network", rtnl.DELROUTE, body))

    def _unask(self, request: Request) -> None:
        """Take back what may not be there."""
        try:
            self._ask(request)
        except HostFailure as error:
            if not absent(error):
                raise

    # --- neighbours ---

    def set_neighbour(self, index: int, address: Address, mac: str) -> None:
        """An address on an interface is at this MAC for good: nobody is asked, and nobody can say otherwise."""
        body = _NDMSG.pack(_family(address), index, _NUD_PERMANENT, 0, 0) + attribute(_ND_DST, address.packed) + attribute(_LLADDR, _octets(mac))
        self._ask(Request(f"set the neighbour {address}", rtnl.NEWNEIGH, body, rtnl.CREATE | rtnl.REPLACE))

    def ask_again(self, index: int) -> None:
        """Ask at once for the neighbours that have not answered; what waits for their answer goes on waiting. The kernel itself would
        ask again after a second."""
        what = f"ask for the neighbours on interface {index}"
        nobody = _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        for answer in self._ask(Request(what, rtnl.GETNEIGH, nobody, rtnl.DUMP)):
            family, where, state, _, _ = _NDMSG.unpack_from(answer)
            if where == index and state == _NUD_INCOMPLETE:
                about = attribute(_ND_DST, dict(rtnl.attributes(answer[_NDMSG.size :]))[_ND_DST])
                anew = (Request(what, rtnl.NEWNEIGH, _NDMSG.pack(family, index, 0, flags, 0) + about, rtnl.REPLACE) for flags in (0, _NTF_USE))
                self._ask(*anew)

    def ask_nobody(self, index: int) -> None:
        """Neither ask nor answer by ARP on an interface. Forgets its neighbours."""
        self._ask(Request(f"set interface {index}", rtnl.NEWLINK, _IFINFO.pack(0, 0, index, _IFF_NOARP, _IFF_NOARP)))

    def add_proxy(self, index: int, address: Address) -> None:
        """Answer on an interface to who asks for the address (ARP, neighbour discovery). One that is there is a success."""
        body = _NDMSG.pack(_family(address), index, _NUD_PERMANENT, _NTF_PROXY, 0) + attribute(_ND_DST, address.packed)
        self._ask(Request(f"answer for {address}", rtnl.NEWNEIGH, body, rtnl.CREATE | rtnl.REPLACE))

    def delete_proxy(self, index: int, address: Address) -> None:
        """None is a success."""
        body = _NDMSG.pack(_family(address), index, 0, _NTF_PROXY, 0) + attribute(_ND_DST, address.packed)
        self._unask(Request(f"answer no more for {address}", rtnl.DELNEIGH, body))

    # --- rates ---

    def limit_rate(self, index: int, rate: int, *, burst: int, queue: int) -> None:
        """Hold what leaves an interface to ``rate`` bytes/s by a token bucket (``tc-tbf(8)``), live.

        ``burst`` and ``queue`` are in bytes; what does not fit the queue is dropped.
        """
        with _said(f"limit the rate of interface {index}"):
            self._route.tc("replace", "tbf", index, _TC_FIRST, parent=_TC_ROOT, rate=min(rate, RATE_LIMIT), burst=burst, limit=queue)

    def unlimit_rate(self, index: int) -> None:
        """Back to the interface's own queue; no limit is a success."""
        self._delete_qdisc(index, "", parent=_TC_ROOT)

    def redirect_arrivals(self, index: int, to: int) -> None:
        """Send all that arrives on an interface through device ``to`` first; an ``ifb`` hands it back when its turn has come."""
        action = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": to}
        with _said(f"redirect what arrives on interface {index}"):
            self._route.tc("replace", "clsact", index)
            self._route.tc(
                "add-filter", "u32", index, parent=_TC_INGRESS_FILTERS, prio=1, protocol=_ETH_P_ALL, target=_TC_FIRST, keys=["0x0/0x0+0"], action=action
            )

    def keep_arrivals(self, index: int) -> None:
        """Undo :meth:`redirect_arrivals`; none is a success."""
        self._delete_qdisc(index, "clsact")

    def _delete_qdisc(self, index: int, kind: str, **where: int) -> None:
        try:
            with _said(f"reset the queue of interface {index}", absence=_ABSENT | {errno.EINVAL}):  # "Invalid handle"
                self._route.tc("del", kind or None, index, **where)
        except HostFailure as error:
            if not absent(error):
                raise


@contextlib.contextmanager
def opened() -> Iterator[Netlink]:
    """A socket in the calling thread's network namespace, closed after the block."""
    with netns.opened(netns.own()) as home:
        with _said("open a netlink socket"):
            mailbox = Mailbox()
        made = Netlink(mailbox, home)
        try:
            yield made
        finally:
            made.close()


def index(name: str) -> int | None:
    """The index of an interface in the calling thread's network namespace. Takes 15 µs."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        if error.errno in (None, errno.ENODEV):  # before Python 3.13 it has no number
            return None
        raise HostFailure(f"cannot find interface {name}: {error.strerror}", code="netlink_failed") from error


def names(prefix: str) -> list[str]:
    """Names of the calling thread's interfaces that begin with ``prefix``. Quick with thousands of them."""
    with _said("list the interfaces"):
        return sorted(name for _, name in socket.if_nameindex() if name.startswith(prefix))


def absent(error: HostFailure) -> bool:
    """Whether a failure means that the thing is not there."""
    return error.stable_code == "absent"


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in _ABSENT:
            raise


@contextlib.contextmanager
def _said(what: str, absence: frozenset[int] = _ABSENT) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise HostFailure(
            f"cannot {what}: {error.args[1]}", hint=_hint(error.code), code="absent" if error.code in absence else "netlink_failed"
        ) from error
    except OSError as error:
        raise HostFailure(f"cannot {what}: {error.strerror or error}", hint=_hint(error.errno or 0), code="netlink_failed") from error


def _hint(number: int) -> str:
    if number == errno.EPERM:
        return "the worker must be root, with CAP_NET_ADMIN over the namespace"
    if number == errno.EOPNOTSUPP:
        return "this kernel lacks the feature: run `hostler doctor` on this server"
    if number == errno.EEXIST:
        return "something else on this host has the name or address"
    if number == errno.EXFULL:
        return "a Linux bridge has 1,023 ports at most: this server is full"
    return ""


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _family(address: Address | Interface) -> int:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def _state(answer: bytes) -> LinkState:
    _, _, index, flags, _ = _IFINFO.unpack_from(answer)
    found = dict(rtnl.attributes(answer[_IFINFO.size :]))
    master, counted = found.get(_MASTER), found.get(_STATS)
    rx_packets, tx_packets, rx_bytes, tx_bytes = struct.unpack_from("=4Q", counted) if counted else (0, 0, 0, 0)
    return LinkState(
        index=index,
        name=_text(found[_IFNAME]),
        kind=_text(dict(rtnl.attributes(found.get(_INFO, b""))).get(_KIND, b"")),
        mac=found.get(_ADDRESS, b"").hex(":"),
        mtu=_number(found[_MTU]),
        up=bool(flags & 1),
        operational=found.get(_OPERSTATE) == _OPERATIONAL,
        master=None if master is None else _number(master),
        alias=_text(found.get(_ALIAS, b"")),
        rx_bytes=rx_bytes,
        tx_bytes=tx_bytes,
        rx_packets=rx_packets,
        tx_packets=tx_packets,
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes) -> int:
    return int(struct.unpack("=I", value)[0])
