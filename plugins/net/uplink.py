"""The server's own interface as a port of the bridge: its addresses and routes have to live on the bridge then.

Each step adds on the one side before it takes from the other, so a step that dies half-way is finished by doing it again.
"""

from __future__ import annotations

from hostler.core.errors import HostFailure
from hostler.host.netlink import LinkState, Netlink


def bearer(host: Netlink, uplink: str) -> LinkState | None:
    """The interface that has the server's addresses: ``uplink`` itself, or the bridge that it is a port of. None: it is not there."""
    port = host.link(uplink) if uplink else None
    master = host.link_at(port.master) if port is not None and port.master is not None else None
    return master if master is not None and master.kind == "bridge" else port


def join(host: Netlink, uplink: str, bridge: LinkState) -> None:
    """Make ``uplink`` a port of ``bridge``, and move addresses and gateway routes to the bridge. Idempotent."""
    port = host.link(uplink)
    if port is None:
        raise HostFailure(
            f"this server has no interface {uplink}", hint="set the driver's uplink to one that `ip link` shows", code="no_uplink"
        )
    if port.master is not None and port.master != bridge.index:
        raise HostFailure(f"interface {uplink} is a port of another bridge", hint="free it, or set another uplink", code="uplink_taken")
    if bridge.mac != port.mac:
        host.set_link(bridge.index, mac=port.mac)  # set, it stays; or the lowest MAC among the ports would become the server's
    if port.master is None:
        host.set_link(port.index, master=bridge.index)
    if not port.up:
        host.set_link(port.index, up=True)
    move(host, port.index, bridge.index)


def leave(host: Netlink, uplink: str, bridge: LinkState) -> None:
    """Undo :func:`join`. Idempotent; an uplink that is gone is a success."""
    port = host.link(uplink)
    if port is None:
        return
    move(host, bridge.index, port.index)
    if port.master == bridge.index:
        host.set_link(port.index, master=0)


def move(host: Netlink, source: int, target: int) -> None:
    """Move addresses, and routes by way of a gateway, from one interface to another."""
    addresses, routes = host.addresses(source), host.routes(source)
    for address in addresses:
        host.add_address(target, address)
    for route in routes:
        host.set_route(target, route)
    for address in addresses:
        host.delete_address(source, address)
