"""A link's end inside the container: addresses, routes and ``lo``, set from outside."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hostler.core.errors import HostFailure
from hostler.core.specs import Link
from hostler.host import netlink, netns
from hostler_plugins.net.records import Record

#: IPv6 addresses are usable at once (duplicates are the platform's to prevent), and nobody else configures the interface.
_IPV6 = {"accept_dad": "0", "accept_ra": "0"}

#: The next hop of a container that shares no network with anybody: link-local, so the same everywhere; no interface has them.
ROUTERS = ("169.254.1.1", "fe80::1")

#: Seconds that the kernel may take to make an address usable; it takes under one ms when it is not busy.
_PATIENCE = 2.0


def configure(inside: int, link: Link) -> None:
    """In the network namespace of descriptor ``inside``: the interface ``link.name``, which exists, up and with all it has."""
    _configure(inside, link.name, [ipaddress.ip_interface(address) for address in link.addresses], link.gateways, None)


def configure_routed(inside: int, link: Link, router: str) -> None:
    """As :func:`configure`, but each address alone, and everybody else behind the router whose MAC is ``router``."""
    own = [ipaddress.ip_interface(ipaddress.ip_interface(address).ip) for address in link.addresses]
    versions = {address.version for address in own}
    _configure(inside, link.name, own, [gateway for gateway in ROUTERS if ipaddress.ip_address(gateway).version in versions], router)


def _configure(inside: int, name: str, addresses: list[netlink.Interface], gateways: Iterable[str], router: str | None) -> None:
    with netns.entered(inside):
        for setting, value in _IPV6.items():
            _set(name, setting, value)
        with netlink.opened() as there:
            there.set_link(there.index("lo"), up=True)
            index = there.index(name)
            there.set_link(index, up=True)
            for address in addresses:
                there.add_address(index, address)
            for gateway in map(ipaddress.ip_address, gateways):
                if router is not None:
                    there.set_neighbour(index, gateway, router)
                there.set_route(index, netlink.Route("", gateway, None))
            for address in addresses:
                if address.version == 6:
                    _wait_until_received(there, address.ip)


def _wait_until_received(there: netlink.Netlink, address: netlink.Address) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not there.receives(address):
        if time.monotonic() > deadline:
            raise HostFailure(f"address {address} was not usable within {_PATIENCE:g} s", hint="the kernel was very busy; try again")
        time.sleep(0.001)


@contextlib.contextmanager
def entered(record: Record) -> Iterator[netlink.Netlink | None]:
    """The calling thread is in the network namespace of a link for the block; None where that is gone, and all in it."""
    try:
        handle = os.open(netns.of_process(record.pid), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        if os.fstat(handle).st_ino != record.namespace:  # another process has that number now
            yield None
            return
        with netns.entered(handle), netlink.opened() as there:
            yield there
    finally:
        os.close(handle)


def ask_again(record: Record) -> None:
    """What a link that was held has asked meanwhile was not heard: it asks at once, not in a second."""
    with entered(record) as there:
        index = netlink.index(record.link.name)
        if there is not None and index is not None:
            there.ask_again(index)


def _set(interface: str, name: str, value: str) -> None:
    file = Path(f"/proc/sys/net/ipv6/conf/{interface}/{name}")
    try:
        file.write_text(value)
    except FileNotFoundError:
        return  # a kernel without IPv6; an IPv6 address will be refused in words
    except OSError as error:
        raise HostFailure(f"cannot set {name} of {interface} inside: {error.strerror}", hint="/proc/sys must be writable for the worker") from error
