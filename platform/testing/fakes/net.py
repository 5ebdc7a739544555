"""Fake network: a link is a folder that says what a real one would be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from hostler.contracts.driver import Host, Item, Probe
from hostler.contracts.net import LinkCounters, Net, NetCapabilities
from hostler.core.errors import Conflict, HostFailure, NotFound
from hostler.core.specs import FirewallRule, Link
from hostler.testing.fakes.shelf import Shelf
from hostler.testing.faults import Faults


class FakeNet(Net):
    """Driver ``fake``."""

    name: ClassVar[str] = "fake"

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.faults = Faults(host.state_dir)
        self._links = Shelf(self.folder / "links", "link")
        self._expected = Shelf(self.folder / "expected", "expected")

    @property
    def capabilities(self) -> NetCapabilities:
        return NetCapabilities.model_validate(dict.fromkeys(NetCapabilities.model_fields, True))

    def probe(self) -> Probe:
        return Probe(offers=["plain folders"])

    def inventory(self) -> list[Item]:
        return [*self._links.inventory(), *self._expected.inventory()]

    def teardown(self) -> None:
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def attach(self, container: str, link: Link, pid: int, held: bool = False) -> None:
        self.faults.passing("net.attach")
        if pid <= 0:
            raise HostFailure(f"there is no process {pid}", hint="its sandbox ended", code="no_process")
        with self._links.alone(container):
            former: dict[str, Any] = self._links.read(container) if container in self._links else {"links": {}, "held": False}
            record = former | {"held": held or former["held"], "counters": LinkCounters().model_dump()}
            record["links"] = record["links"] | {link.name: {"link": link.model_dump(mode="json"), "pid": pid}}
            with self._links.made(container) as folder:
                self._links.write(container, record, folder)
                self.faults.passing("net.attach:done")

    def detach(self, container: str) -> None:
        self.faults.passing("net.detach")
        with self._alone(container):
            self._links.drop(container)
            self._expected.drop(container)

    def shape(self, container: str, rate_in: int | None, rate_out: int | None) -> None:
        self.faults.passing("net.shape")
        self._change(container, {"rate_in": rate_in, "rate_out": rate_out})

    def counters(self, container: str) -> LinkCounters:
        return LinkCounters.model_validate(self._record(container)["counters"])

    def set_firewall(self, container: str, rules: tuple[FirewallRule, ...]) -> None:
        self.faults.passing("net.set_firewall")
        self._change(container, {"firewall": [rule.model_dump(mode="json") for rule in rules]})

    def hold(self, container: str) -> None:
        self.faults.passing("net.hold")
        with self._links.alone(container):
            self._links.write(container, self._record(container) | {"held": True})

    def release(self, container: str) -> None:
        self.faults.passing("net.release")
        with self._alone(container):
            record = self._record(container)
            waiting = [*self._expected.read(container).get("waiting", []), *record.get("waiting", [])]
            self._links.write(container, record | {"held": False, "waiting": [], "received": [*record.get("received", []), *waiting]})
            self._expected.drop(container)

    def expect(self, container: str, link: Link) -> None:
        self.faults.passing("net.expect")
        with self._alone(container):
            expected = self._expected.read(container)["links"] if container in self._expected else {}
            if not expected and container in self._links:
                raise Conflict(f"container {container} has its links here", hint="it cannot be on its way to where it is", code="link_here")
            record = {"links": expected | {link.name: link.model_dump(mode="json")}}
            if container in self._expected:
                self._expected.write(container, record)
                return
            with self._expected.made(container) as folder:
                self._expected.write(container, record, folder)

    def kept(self, container: str, limit: int) -> dict[str, list[bytes]]:
        self.faults.passing("net.kept")
        with self._links.alone(container):
            record = self._links.read(container)
            waiting: list[tuple[str, str]] = record.get("waiting", [])
            if waiting:
                self._links.write(container, record | {"waiting": []})
        found: dict[str, list[bytes]] = {}
        for link, text in waiting:
            packet = bytes.fromhex(text)
            limit -= len(packet)
            if limit >= 0:
                found.setdefault(link, []).append(packet)
        return found

    def bring(self, container: str, packets: Mapping[str, Sequence[bytes]]) -> None:
        self.faults.passing("net.bring")
        with self._alone(container):
            if container in self._expected:
                record = self._expected.read(container)
                brought = [(link, packet.hex()) for link, found in packets.items() for packet in found if link in record["links"]]
                self._expected.write(container, record | {"waiting": brought + record.get("waiting", [])})

    def arrive(self, container: str, link: str, packet: bytes) -> None:
        """Say that a packet comes for a container: it reaches the link, waits for it, or is nobody's."""
        with self._alone(container):
            entry = (link, packet.hex())
            shelf, key = (self._expected, "waiting") if container in self._expected else (self._links, "waiting")
            record = shelf.read(container)
            if shelf is self._links and record and not record["held"]:
                key = "received"
            if record:
                shelf.write(container, record | {key: [*record.get(key, []), entry]})

    def received(self, container: str) -> list[tuple[str, bytes]]:
        """What has reached the container's links, oldest first."""
        return [(link, bytes.fromhex(text)) for link, text in self._record(container).get("received", [])]

    @contextmanager
    def _alone(self, container: str) -> Iterator[None]:
        with self._links.alone(container):
            self._expected.sweep(container)
            yield

    def links_of(self, container: str) -> dict[str, Link]:
        """The container's links by name."""
        return {name: Link.model_validate(row["link"]) for name, row in self._record(container)["links"].items()}

    def carry(self, container: str, counters: LinkCounters) -> None:
        """Say what went over the links; a held one carries nothing."""
        with self._links.alone(container):
            record = self._record(container)
            if not record["held"]:
                self._links.write(container, record | {"counters": counters.model_dump()})

    def _change(self, container: str, change: dict[str, Any]) -> None:
        with self._links.alone(container):
            record = self._record(container)
            links = {name: row | {"link": row["link"] | change} for name, row in record["links"].items()}
            self._links.write(container, record | {"links": links})

    def _record(self, container: str) -> dict[str, Any]:
        if container not in self._links:
            raise NotFound(f"container {container} has no link here", hint="attach it first", code="no_link")
        return self._links.read(container)
