"""Net driver ``nowhere``: a container has its interface and addresses, and reaches nobody but itself.

For jobs that must not talk: builds from what they were given, a stranger's code, data that must not leave. A program that binds to the
container's address works as it would elsewhere. The interface is a ``veth`` whose other end stays inside too, down, so nothing is
left on the server and nothing can be connected by mistake.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from pydantic import Field

from hostler.contracts.driver import Item, Lack, Probe, Settings
from hostler.contracts.net import LinkCounters, Net, NetCapabilities
from hostler.core.errors import HostFailure, NotFound, Unsupported
from hostler.core.names import check_id
from hostler.core.specs import Link
from hostler.host import netns
from hostler.host.failures import explained
from hostler.host.process import run


class NowhereSettings(Settings):
    """Of driver ``nowhere``."""

    mtu: int = Field(default=1500, ge=1280, le=65535, description="of the interfaces inside")


class Nowhere(Net):
    """See the module."""

    name = "nowhere"
    version = "1.0"
    settings_model = NowhereSettings
    settings: NowhereSettings

    @property
    def capabilities(self) -> NetCapabilities:
        """Nobody is reached, so nobody is fooled and nobody is disturbed."""
        return NetCapabilities(anti_spoofing=True, isolation=True)

    def probe(self) -> Probe:
        """Whether the one program it needs is there."""
        if not any((Path(folder) / "ip").exists() for folder in ("/sbin", "/usr/sbin", "/bin", "/usr/bin")):
            return Probe(lacks=[Lack(what="the program ip", remedy="apt-get install iproute2", blocks=True)])
        return Probe(offers=["silence"])

    def setup(self) -> None:
        """The folder of records: what a worker that has just started knows."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def teardown(self) -> None:
        """Remove it."""
        if self.folder.is_dir():
            for file in self.folder.iterdir():
                file.unlink()
            self.folder.rmdir()

    def inventory(self) -> list[Item]:
        """A record for each container. The links themselves end with the container's namespace."""
        names = sorted(os.listdir(self.folder)) if self.folder.is_dir() else []
        return [Item(kind="record", name=name, owner=name) for name in names if not name.startswith(".")]

    def attach(self, container: str, link: Link, pid: int, held: bool = False) -> None:
        """Made whole or not at all: the record comes first, and an error takes both away."""
        if held:
            raise self._refuse("hold a link")
        if link.firewall:
            raise self._refuse("hold a tenant's firewall")
        if link.network is not None:
            raise self._refuse("make a network of the tenant's own")
        record = self._record(container)
        if pid <= 0:
            raise HostFailure(f"there is no process {pid}", hint="its sandbox has ended: start the container again", code="no_netns")
        with netns.opened(netns.of_process(pid)) as inside:
            try:
                self._write(record, {"pid": pid, "namespace": os.fstat(inside).st_ino, "link": link.name})
                _ip(inside, ["-force"], f"link delete {link.name}")  # of an earlier try; none is no error
                _ip(inside, [], *self._commands(link))
            except BaseException:
                self.detach(container)
                raise

    def _commands(self, link: Link) -> list[str]:
        peer = f"p{secrets.token_hex(4)}"
        mtu = min(link.mtu, self.settings.mtu)
        made = [f"link add {link.name} mtu {mtu} address {link.mac} type veth peer name {peer}", "link set lo up"]
        made += [f"address add {address} dev {link.name}" for address in link.addresses]
        return [*made, f"link set {link.name} up"]

    def detach(self, container: str) -> None:
        """The links go with the namespace they are in; a container that is attached again replaces them."""
        record = self._record(container)
        try:
            kept = json.loads(record.read_text())
        except FileNotFoundError:
            return
        try:
            with netns.opened(netns.of_process(kept["pid"])) as inside:
                if os.fstat(inside).st_ino == kept["namespace"]:  # else another's process has that number now
                    _ip(inside, ["-force"], f"link delete {kept['link']}")
        except HostFailure as error:
            if error.stable_code != "no_netns":  # its process is gone, and all with it
                raise
        record.unlink(missing_ok=True)

    def shape(self, container: str, rate_in: int | None, rate_out: int | None) -> None:
        """Nothing flows, so every rate is kept."""
        self._known(container)

    def counters(self, container: str) -> LinkCounters:
        """Nothing came and nothing went."""
        self._known(container)
        return LinkCounters()

    def _record(self, container: str) -> Path:
        return self.folder / check_id(container)

    def _known(self, container: str) -> None:
        if not self._record(container).exists():
            raise NotFound(f"container {container} has no link here", hint="it is stopped, or on another server", code="no_link")

    def _refuse(self, what: str) -> Unsupported:
        return Unsupported(f"driver {self.name} cannot {what}: it connects to nobody", hint="hostler plugins shows which driver can")

    def _write(self, record: Path, content: dict[str, object]) -> None:
        draft = record.with_name(f".{record.name}-{secrets.token_hex(4)}")
        try:
            with explained(f"write {record}"):
                draft.write_text(json.dumps(content))
                os.replace(draft, record)
        finally:
            draft.unlink(missing_ok=True)


def _ip(namespace: int, options: list[str], *commands: str) -> None:
    """Run ``ip -batch`` in a namespace, given as an open descriptor. With ``-force`` what fails is passed over."""
    run(
        ["nsenter", f"--net=/proc/self/fd/{namespace}", "ip", *options, "-batch", "-"],
        stdin="\n".join(commands).encode() + b"\n", pass_fds=[namespace], check="-force" not in options, timeout=10,
    )  # fmt: skip
