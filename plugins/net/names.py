"""Names of a container's interfaces on the host, 15 bytes each, and who an interface belongs to.

``v`` + 4 of the installation and node + 8 of the container + 2 of the link. All links of a container share 13 bytes, and
all of a node 5: so they are found without asking the kernel more than its interfaces' names.
"""

from __future__ import annotations

from dataclasses import dataclass

from hostler.contracts.driver import Host
from hostler.core.names import check_id, link_name, short_hash

_ALIAS = "hostler"


@dataclass(frozen=True)
class Names:
    """Of one driver on one node; the first driver is called nothing. ``scope`` is the installation and the node."""

    installation: str
    node: str
    driver: str = ""

    @classmethod
    def of(cls, host: Host, driver: str = "") -> Names:
        """Those of a driver on a host."""
        return cls(host.installation, host.node, driver)

    @property
    def scope(self) -> str:
        """Installation and node, as one text."""
        return f"{self.installation}/{self.node}"

    @property
    def seed(self) -> str:
        """What interface names are made from, so that no two drivers' links look alike."""
        return f"{self.scope}/{self.driver}" if self.driver else self.scope

    @property
    def table(self) -> str:
        """The nftables table."""
        table = f"hostler_{self.installation}_{self.node.replace('-', '_')}"
        return f"{table}_{self.driver}" if self.driver else table

    @property
    def bridge(self) -> str:
        """The bridge, where the settings give no name."""
        return link_name("b", self.seed, "bridge")

    @property
    def links(self) -> str:
        """What the names of all containers' links begin with."""
        return link_name("v", self.seed, "")[:5]

    @property
    def shapers(self) -> str:
        """What the names of all shapers begin with."""
        return shaper(self.links)

    @property
    def rooms(self) -> str:
        """What the names of all waiting rooms begin with."""
        return room(self.links)

    def links_of(self, container: str) -> str:
        """What the names of one container's links begin with."""
        return link_name("v", self.seed, check_id(container))

    def link(self, container: str, inside: str) -> str:
        """The host's end of the link that the container calls ``inside``."""
        return self.links_of(container) + short_hash(inside, 2)

    def alias(self, container: str) -> str:
        """What an interface carries as its alias, so that a worker that knows nothing can tell whose it is."""
        return f"{_ALIAS} {self.scope} {container}"

    def owner(self, alias: str) -> str | None:
        """The container of an alias; None when it is not one of this node's."""
        words = alias.split(" ")
        return words[2] if len(words) == 3 and words[:2] == [_ALIAS, self.scope] else None


def shaper(link: str) -> str:
    """Name of the ``ifb`` device that holds a link's rate from the container."""
    return "i" + link[1:]


def room(link: str) -> str:
    """Name of the device in which packets for a link wait."""
    return "w" + link[1:]
