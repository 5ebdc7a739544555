"""Fake drivers with one bug each. :data:`PLANTED` says which promises the suite must find broken."""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

from hostler.contracts.driver import Item, Probe, Settings
from hostler.contracts.limits import Cgroup
from hostler.core.errors import Conflict, HostFailure
from hostler.core.limits import Limits
from hostler.core.specs import Link
from hostler.testing.fakes.limits import FakeLimits
from hostler.testing.fakes.net import FakeNet
from hostler.testing.fakes.shelf import write_record
from hostler.testing.fakes.storage import FakeStorage


class CreatesOnce(FakeLimits):
    """Not idempotent: what exists is an error."""

    def create(self, container: str, limits: Limits, account: str = "", account_weight: int = 100) -> Cgroup:
        if container in self._groups:
            raise Conflict("it exists", hint="remove it first")
        return super().create(container, limits, account, account_weight)


class LeavesADraft(FakeStorage):
    """A failed image leaves a file."""

    def add_image(self, image: str, fill: Callable[[Path], None]) -> None:
        try:
            super().add_image(image, fill)
        except RuntimeError:
            (self.folder / f"half-made-{image}").touch()
            raise


class LeavesALink(FakeNet):
    """An attach that fails leaves what it had made."""

    def attach(self, container: str, link: Link, pid: int, held: bool = False) -> None:
        super().attach(container, link, max(pid, 1), held)
        if pid <= 0:
            raise HostFailure(f"there is no process {pid}", hint="its sandbox ended")


class ForgetsAFile(FakeLimits):
    """Removing leaves a file of the container."""

    def remove(self, container: str) -> None:
        if container in self._groups:
            (self.folder / f"{container}-{time.monotonic_ns()}.log").touch()
        super().remove(container)


class WrongError(FakeLimits):
    """What is absent is told by an exception of Python's."""

    def _there(self, container: str) -> None:
        if container not in self._groups:
            raise KeyError(container)


class Liar(FakeNet):
    """Says that it makes tenants' own networks, and refuses to."""

    def attach(self, container: str, link: Link, pid: int, held: bool = False) -> None:
        if link.network is not None:
            raise self._refuse("make a network of the tenant's own")
        super().attach(container, link, pid, held)


class NoQuota(FakeStorage):
    """A quota that is shown and not held."""

    def put(self, volume: str, path: str, content: bytes) -> None:
        target = self._volumes.path(volume) / "files" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


class NoLocks(FakeLimits):
    """Not safe among threads: looks, then acts."""

    def create(self, container: str, limits: Limits, account: str = "", account_weight: int = 100) -> Cgroup:
        folder = self._groups.path(container)
        if not folder.exists():
            time.sleep(0.02)
            folder.mkdir(parents=True)
            write_record(folder, {"limits": limits.model_dump(mode="json"), "usage": {}})
        return super().create(container, limits, account, account_weight)


class AnyName(FakeLimits):
    """Takes any text for a name where it lists processes."""

    def processes(self, container: str) -> list[int]:
        return super().processes(container) if container.isalnum() else []


class HidesVolumes(FakeStorage):
    """Tells of images alone."""

    def inventory(self) -> list[Item]:
        return [item for item in super().inventory() if item.kind != "volume"]


class HalfMade(FakeLimits):
    """Takes what a dead worker had begun for whole."""

    def create(self, container: str, limits: Limits, account: str = "", account_weight: int = 100) -> Cgroup:
        folder = self._groups.path(container)
        if not folder.exists():
            with self._groups.alone(container):
                folder.mkdir(parents=True, exist_ok=True)
                time.sleep(0.03)
                write_record(folder, {"limits": limits.model_dump(mode="json"), "usage": {}})
        if not (folder / "record.json").exists():
            time.sleep(0.1)  # as if another were at it
        if not (folder / "record.json").exists():
            raise HostFailure("the cgroup has no record", hint="remove it")
        return Cgroup(path=f"fake/{container}", parents={"fake": str(folder)})


class _Wide(Settings):
    model_config = ConfigDict(extra="ignore", frozen=True)


class AnySettings(FakeLimits):
    """Takes whatever settings it is given."""

    settings_model: ClassVar[type[Settings]] = _Wide


class BusyProbe(FakeLimits):
    """A probe that changes the host."""

    def probe(self) -> Probe:
        self.host.state_dir.mkdir(parents=True, exist_ok=True)
        (self.host.state_dir / f"probed-{time.monotonic_ns()}").touch()
        return super().probe()


class NoWordsOnAFullDisk(FakeLimits):
    """Lets the kernel's number speak."""

    def apply(self, container: str, limits: Limits) -> None:
        with tempfile.TemporaryFile(dir=self.host.state_dir, buffering=0) as scratch:
            scratch.write(b"x" * 4096)
        super().apply(container, limits)


class SmallRates(FakeNet):
    """Counts in 32 bits."""

    def shape(self, container: str, rate_in: int | None, rate_out: int | None) -> None:
        struct.pack("=II", rate_in or 0, rate_out or 0)
        super().shape(container, rate_in, rate_out)


class NeedsAFile(FakeStorage):
    """Shares the work among the files of an image, of which there may be none."""

    def add_image(self, image: str, fill: Callable[[Path], None]) -> None:
        def filled(folder: Path) -> None:
            fill(folder)
            1 // len(list(folder.iterdir()))

        super().add_image(image, filled)


#: Class → promises that must be found broken, and those that may be found so too, since one bug can show in several.
PLANTED: dict[str, tuple[set[str], set[str]]] = {
    "limits:CreatesOnce": ({"twice"}, {"kill", "together", "members", "accounts"}),
    "storage:LeavesADraft": ({"image-whole"}, set()),
    "net:LeavesALink": ({"attach-whole"}, set()),
    "limits:ForgetsAFile": ({"traces"}, {"full-disk"}),
    "limits:WrongError": ({"absent"}, {"names"}),
    "net:Liar": ({"refusal"}, set()),
    "storage:NoQuota": ({"quota"}, set()),
    "limits:NoLocks": ({"together"}, {"kill"}),
    "limits:AnyName": ({"names"}, set()),
    "storage:HidesVolumes": ({"inventory"}, {"full"}),
    "limits:HalfMade": ({"kill"}, {"together"}),
    "limits:AnySettings": ({"settings"}, set()),
    "limits:BusyProbe": ({"probe"}, set()),
    "limits:NoWordsOnAFullDisk": ({"full-disk"}, set()),
    "net:SmallRates": ({"rates"}, set()),
    "storage:NeedsAFile": ({"empty"}, set()),
}
