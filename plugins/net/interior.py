"""A link's end inside the container: addresses, routes and ``lo``, set from outside."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path

from hostler.core.errors import HostFailure
from hostler.core.specs import Link
from hostler.host import netlink, netns

#: IPv6 addresses are usable at once (duplicates are the platform's to prevent), and nobody else configures the interface.
_IPV6 = {"accept_dad": "0", "accept_ra": "0"}

#: Seconds that the kernel may take to make an address usable; it takes under one ms when it is not busy.
_PATIENCE = 2.0


def configure(inside: int, link: Link) -> None:
    """In the network namespace of descriptor ``inside``: the interface ``link.name``, which exists, up and with all it has."""
    with netns.entered(inside):
        for name, value in _IPV6.items():
            _set(link.name, name, value)
        with netlink.opened() as there:
            there.set_link(there.index("lo"), up=True)
            index = there.index(link.name)
            there.set_link(index, up=True)
            for address in link.addresses:
                there.add_address(index, ipaddress.ip_interface(address))
            for gateway in link.gateways:
                there.set_route(index, netlink.Route("", ipaddress.ip_address(gateway), None))
            for address in link.addresses:
                own = ipaddress.ip_interface(address).ip
                if own.version == 6:
                    _wait_until_received(there, own)


def _wait_until_received(there: netlink.Netlink, address: netlink.Address) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not there.receives(address):
        if time.monotonic() > deadline:
            raise HostFailure(f"address {address} was not usable within {_PATIENCE:g} s", hint="the kernel was very busy; try again")
        time.sleep(0.001)


def _set(interface: str, name: str, value: str) -> None:
    file = Path(f"/proc/sys/net/ipv6/conf/{interface}/{name}")
    try:
        file.write_text(value)
    except FileNotFoundError:
        return  # a kernel without IPv6; an IPv6 address will be refused in words
    except OSError as error:
        raise HostFailure(f"cannot set {name} of {interface} inside: {error.strerror}", hint="/proc/sys must be writable for the worker") from error
