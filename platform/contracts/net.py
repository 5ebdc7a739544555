"""Networks: links between containers and the provider's network."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from pydantic import BaseModel

from hostler.contracts.driver import Capabilities, Driver
from hostler.core.specs import Link


class NetCapabilities(Capabilities):
    """What a net driver may be able to do."""

    rate_in: bool = False
    rate_out: bool = False
    anti_spoofing: bool = False
    isolation: bool = False
    """Packets to other accounts' addresses in the pool are dropped."""


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
    def attach(self, container: str, link: Link, pid: int) -> None:
        """Make ``link`` in the network namespace of process ``pid``, up, with addresses, routes and rates.

        When it returns, packets flow and spoofed ones do not. An existing link of the same container and name is replaced.
        Any failure leaves no link and no rule.
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
