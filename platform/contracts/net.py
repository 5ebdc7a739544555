"""Networks: links between containers and the provider's network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel

from hostler.contracts.driver import Capabilities, Driver, Lack
from hostler.core.errors import Unsupported
from hostler.core.specs import FirewallRule, Link


class NetCapabilities(Capabilities):
    """What a net driver may be able to do."""

    rate_in: bool = False
    rate_out: bool = False
    anti_spoofing: bool = False
    isolation: bool = False
    """Packets to other accounts' addresses in the pool are dropped."""
    firewall: bool = False
    """The tenant's own rules (:attr:`Link.firewall`, :meth:`Net.set_firewall`)."""
    hold: bool = False
    """:meth:`Net.hold` and :meth:`Net.release`."""
    expect: bool = False
    """:meth:`Net.expect`, :meth:`Net.kept` and :meth:`Net.bring`. Then packets also wait for a container that :meth:`Net.hold` holds."""
    tenant_networks: bool = False
    """:attr:`Link.network`: a network of the tenant's own across servers, whose addresses may overlap with others'."""
    shared_l2: bool = False
    """Containers share a broadcast domain with the provider's network."""


class LinkCounters(BaseModel):
    """Bytes and packets of a link since it was attached, as the container sees them."""

    in_bytes: int = 0
    out_bytes: int = 0
    in_packets: int = 0
    out_packets: int = 0


class Net(Driver):
    """Contract of group ``hostler.net``."""

    group: ClassVar[str] = "net"

    @property
    @abstractmethod
    def capabilities(self) -> NetCapabilities: ...

    @abstractmethod
    def attach(self, container: str, link: Link, pid: int, held: bool = False) -> None:
        """Make ``link`` in the network namespace of process ``pid``, up, with addresses, routes and rates.

        When it returns, packets flow and spoofed ones do not. An existing link of the same container and name is replaced.
        Any failure leaves no link and no rule.

        ``held``: as after :meth:`hold`, from the very beginning, until :meth:`release`; a link of a container that is held is
        so too. It has its addresses, so that sockets can be bound to them, but nobody is told and nothing that is on its
        way to the same addresses elsewhere comes here: they are still in use on the server that the container moves from.
        Raises :class:`Unsupported` where the driver cannot hold.
        """

    @abstractmethod
    def detach(self, container: str) -> None:
        """Remove all links and rules of a container; none is a success."""

    @abstractmethod
    def shape(self, container: str, rate_in: int | None, rate_out: int | None) -> None:
        """Set the rates of all the container's links, live, in bit/s. Raises :class:`NotFound` without a link."""

    @abstractmethod
    def counters(self, container: str) -> LinkCounters:
        """Sum over the container's links. Raises :class:`NotFound` without a link."""

    def lacks_for(self, link: Link) -> Lack | None:
        """What this server lacks for ``link`` to keep its addresses when its container comes from another server; None: nothing that is known."""
        return None

    # --- by capability: a driver without it inherits the refusal ---

    def _refuse(self, what: str) -> Unsupported:
        return Unsupported(f"net driver {self.name} cannot {what} here", hint="hostler plugins shows which driver can", code="unsupported")

    def set_firewall(self, container: str, rules: tuple[FirewallRule, ...]) -> None:
        """Replace the tenant's rules on all the container's links in one step: no packet sees half of them.

        Anti-spoofing and isolation come first and cannot be opened by them. Connections that are established go on.
        Raises :class:`NotFound` without a link.
        """
        raise self._refuse("hold a tenant's firewall")

    def hold(self, container: str) -> None:
        """From the return on, no packet leaves or reaches the container, and none is answered or refused on its behalf:
        a peer's packets are lost or wait, so that its connections stay. Held already is a success.
        Raises :class:`NotFound` without a link."""
        raise self._refuse("hold a link")

    def release(self, container: str) -> None:
        """End :meth:`hold`, lead to the container what is for its addresses, and announce these to the network. What waited for it
        comes to it, oldest first, as if it came now.

        Not held is a success. Raises :class:`NotFound` without a link."""
        raise self._refuse("hold a link")

    def expect(self, container: str, link: Link) -> None:
        """Draw to this server, and keep, what is for the addresses of a container that is on its way here: it stands still elsewhere,
        and its links there are held.

        From the return on the network leads here what is for ``link``, and it waits for :meth:`release`, which comes after
        :meth:`attach` with ``held``; nothing of it is answered or refused. What is kept is bounded in number, bytes and time; what
        goes beyond is lost. :meth:`detach` ends it without a trace, and so does the death of the worker; then who has the container
        draws its traffic back by :meth:`release`. Expected already is a success. On failure nothing is drawn here.

        Raises :class:`Conflict` when the container's link is here, not held for a move, and :class:`Unsupported`.
        """
        raise self._refuse("keep packets for who is on the way")

    def kept(self, container: str, limit: int) -> dict[str, list[bytes]]:
        """Of a held container that belongs to another server now: what has come for it, by names of links, oldest first, as far as ``limit``
        bytes go. It waits here no longer, and what comes from now on, from this server too, goes where the network leads.

        What it looks like is the driver's own; the same driver on another server takes it by :meth:`bring`. Nothing is a success.
        """
        raise self._refuse("keep packets for who is held")

    def bring(self, container: str, packets: Mapping[str, Sequence[bytes]]) -> None:
        """Of an expected container: what :meth:`kept` gave elsewhere waits here now, before what came here.

        What is for no link that is expected, not for its addresses, or more than waits at most, is dropped: it comes from another server.
        """
        raise self._refuse("keep packets for who is on the way")
