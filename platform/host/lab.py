"""The network of servers on one machine: a network namespace each, joined by a bridge in one that stands for the provider's switch.

    machine ──veth── switch (h<installation>-switch) ──veth── server (h<installation>-<name>), where its end is ``up0``

The machine, where wanted, holds the gateway addresses, and so reaches all servers and containers; it forwards nothing for them.
All functions are idempotent. Nothing here needs a running Hostler.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

from hostler.core.errors import HostFailure, Invalid
from hostler.core.names import link_name
from hostler.host import netlink, netns
from hostler.host.netlink import Interface, Netlink

#: A server's interface to the switch: the uplink to name in its bridge driver's settings.
UPLINK = "up0"
_SWITCH = "switch"
_MTU = 1500
_MACHINE_PORT = "machine"


def server_netns(installation: str, name: str) -> str:
    """Name of a server's network namespace. Raises :class:`Invalid` for the switch's own name."""
    if name in (_SWITCH, _MACHINE_PORT):
        raise Invalid(f"a server cannot be called {name}", hint="that is a name of the lab's own")
    return _prefix(installation) + name


def machine_link(installation: str) -> str:
    """Name of the machine's interface to the switch."""
    return link_name("m", installation, _MACHINE_PORT)


def make_switch(installation: str) -> Path:
    """The switch's namespace with its bridge. Returns the namespace's path."""
    where = netns.create(_prefix(installation) + _SWITCH)
    with netns.entered(where), netlink.opened() as switch:
        switch.set_link(switch.index("lo"), up=True)
        if switch.link(_SWITCH) is None:
            switch.add_bridge(_SWITCH, mtu=_MTU)
        switch.set_link(switch.index(_SWITCH), up=True)
    return where


def add_server(installation: str, name: str, address_v4: str | None = None, address_v6: str | None = None) -> Path:
    """A server's namespace, joined to the switch. Addresses have a prefix length. Returns the namespace's path.

    Addresses that have moved on to another interface in there, such as the bridge driver's, stay where they are.
    """
    make_switch(installation)
    where = netns.create(server_netns(installation, name))
    _join(installation, link_name("p", installation, name), where, UPLINK)
    wanted = _interfaces(address_v4, address_v6)
    with netns.entered(where), netlink.opened() as server:
        server.set_link(server.index("lo"), up=True)
        server.set_link(server.index(UPLINK), up=True)
        present = {address for link in server.links() for address in server.addresses(link.index)}
        for address in wanted:
            if address not in present:
                server.add_address(server.index(UPLINK), address)
    return where


def connect_machine(installation: str, gateway_v4: str | None, gateway_v6: str | None) -> str:
    """One link from the caller's namespace into the switch, holding the gateway addresses, which have a prefix length.

    The machine does not forward what comes from the link, whatever its global settings. Returns the link's name.
    Raises :class:`HostFailure` when another interface has one of the addresses.
    """
    make_switch(installation)
    name = machine_link(installation)
    wanted = _interfaces(gateway_v4, gateway_v6)
    with netlink.opened() as machine:
        for link in machine.links():
            taken = set(wanted) & set(machine.addresses(link.index)) if link.name != name else set()
            if taken:
                raise HostFailure(
                    f"interface {link.name} of this machine already has {', '.join(map(str, taken))}",
                    hint="another installation is connected: end it, or give this one other addresses",
                    code="address_taken",
                )
        _join(installation, _MACHINE_PORT, None, name)
        index = machine.index(name)
        for family, settings in (("ipv4", {"forwarding": "0"}), ("ipv6", {"forwarding": "0", "accept_ra": "0"})):
            for setting, value in settings.items():
                Path(f"/proc/sys/net/{family}/conf/{name}/{setting}").write_text(value)
        machine.set_link(index, up=True)
        for address in wanted:
            machine.add_address(index, address)
    return name


def name_machine(installation: str) -> Path:
    """A name for the machine's own namespace, the caller's, for work of servers that needs a way out. :func:`remove_all` takes it away."""
    return netns.name_own(_prefix(installation) + _MACHINE_PORT)


def remove_server(installation: str, name: str) -> None:
    """Take a server's namespace and its port on the switch away; processes in it keep it, unconnected. None is a success."""
    switch = _prefix(installation) + _SWITCH
    if netns.exists(switch):
        with netns.entered(netns.path_of(switch)), netlink.opened() as host:
            host.delete_link(link_name("p", installation, name))
    netns.delete(server_netns(installation, name))


def remove_all(installation: str) -> None:
    """Take away all servers, the switch and the machine's link. Nothing there is a success."""
    with netlink.opened() as machine:
        machine.delete_link(machine_link(installation))
    prefix = _prefix(installation)
    for name in netns.names(prefix):
        if name == prefix + _MACHINE_PORT:
            netns.delete(name)
        elif name != prefix + _SWITCH:
            remove_server(installation, name.removeprefix(prefix))
    netns.delete(prefix + _SWITCH)


def _prefix(installation: str) -> str:
    return f"h{installation}-"


def _interfaces(*addresses: str | None) -> list[Interface]:
    try:
        return [ipaddress.ip_interface(address) for address in addresses if address]
    except ValueError as error:
        raise Invalid(f"{error}", hint="write an address with its prefix length, such as 198.18.0.1/15") from error


def _join(installation: str, port: str, where: Path | None, name: str) -> None:
    """A link from the switch's ``port`` to interface ``name`` in namespace ``where``, or in the caller's own."""
    target = Path("/proc/thread-self/ns/net") if where is None else where
    with netns.opened(target) as other:
        with netns.entered(other), netlink.opened() as far:
            if far.link(name) is not None:
                return
        with netns.entered(netns.path_of(_prefix(installation) + _SWITCH)), netlink.opened() as switch:
            switch.delete_link(port)  # its other end was lost
            switch.add_veth(port, name, mtu=_MTU, peer_netns=other, master=switch.index(_SWITCH))
            _raise_port(switch, port)


def _raise_port(switch: Netlink, port: str) -> None:
    switch.set_link(switch.index(port), up=True, own_ipv6=False)
