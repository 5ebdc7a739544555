"""What all environments share."""

from __future__ import annotations

import contextlib
import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from hostler.contracts.driver import Driver
from hostler.core.errors import HostlerError, Unsupported
from hostler.core.units import MIB
from hostler.host import loop, mounts, netns
from hostler.host.process import run
from hostler.testing.subjects import Recipe, host_for
from hostler.testing.zygote import Call, Zygote, shared

_SMALL = 192 * MIB
_RECORDS = 2 * MIB


@dataclass
class Scene:
    """A verb at work: calls that lead to it, the verb, calls that lead back to nothing. ``owner``: whose things it makes."""

    before: list[Call]
    call: Call
    after: list[Call] = field(default_factory=list)
    owner: str = ""

    @property
    def verb(self) -> str:
        """Its name."""
        return self.call[0]


class NotUsable(Unsupported):
    """The driver says that this host lacks what it cannot do without."""


class Arena(ABC):
    """The environment of one driver in one test. Everything it makes is gone after :meth:`close`."""

    one_thing: ClassVar[bool] = True
    """Whether several workers may work on one thing at once; else each has its own, as the platform guarantees."""
    kill_rounds: int = 8
    small: str = "tmpfs"
    """What ``{small}`` is: a ``tmpfs``, or an ``ext4`` with project quotas."""
    small_records: ClassVar[bool] = False
    """Whether the driver keeps nothing but small records in the node's folder, which is then on a file system of its own."""
    settling: ClassVar[float] = 0.0
    """Seconds that programs which a killed worker had started are given to end."""

    def __init__(self, spec: str, folder: Path, libexec: Path, settings: str | None) -> None:
        self.spec = spec
        self.folder = folder
        self.places = {"folder": str(folder), "small": str(folder / "small"), "uplink": "up0"}
        self.recipe = Recipe(spec, host_for(spec, folder, libexec, settings, self.places), self._netns())
        self._needs_small = "{small}" in (settings or "") or any(
            self.places["small"] in str(value) for value in self.recipe.host.settings.get(self._key, {}).values()
        )

    @property
    def _key(self) -> str:
        return next(iter(self.recipe.host.settings))

    @property
    def fake(self) -> bool:
        """Whether the driver works on plain files, without root."""
        return "hostler.testing" in {base.__module__.rsplit(".fakes", 1)[0] for base in type(self.driver).__mro__}

    @cached_property
    def driver(self) -> Driver:
        """The driver that the test calls."""
        return self.recipe.make()

    @property
    def zygote(self) -> Zygote:
        """Starts processes that call the driver. One for all tests of a run."""
        return shared()

    def _netns(self) -> Path | None:
        return None

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is where the driver works."""
        with netns.entered(self.recipe.netns) if self.recipe.netns else contextlib.nullcontext():
            yield

    def open(self) -> None:
        """Make the environment, and set the driver up."""
        if self._needs_small:
            self._make_small(self.folder / "small")
        if self.apart:
            self.recipe.host.state_dir.mkdir()
            mounts.mount("tmpfs", self.recipe.host.state_dir, "tmpfs", options=f"size={_RECORDS},mode=0755")
        self.prepare()
        with self.inside():
            blocking = [lack.what for lack in self.driver.probe().lacks if lack.blocks]
            if blocking:
                raise NotUsable(f"driver {self.spec} cannot be used here: {'; '.join(blocking)}", hint="run the suite on a host that has it")
            self.driver.setup()
        self.furnish()

    def _make_small(self, at: Path) -> None:
        at.mkdir()
        if self.small == "tmpfs":
            mounts.mount("tmpfs", at, "tmpfs", options=f"size={_SMALL}")
            return
        disk = self.folder / "small.ext4"
        with disk.open("wb") as file:
            file.truncate(_SMALL)
        run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "quota,project", "-E", "quotatype=prjquota", disk])
        loop.mount_file(disk, at, "ext4", "prjquota")

    def prepare(self) -> None:
        """Make what the driver works on, before it is set up."""

    def furnish(self) -> None:
        """Make what its verbs need, after."""

    def close(self) -> None:
        """End and remove everything."""
        self.clear()
        for mount in mounts.mounts_below(self.folder):
            mounts.unmount(mount.point, lazy=True)
        shutil.rmtree(self.folder)

    def clear(self) -> None:
        """End what lives outside of the folder."""

    # --- what there is to ask

    @abstractmethod
    def scenes(self, number: int = 0) -> list[Scene]:
        """Each verb at work, on things of that number."""

    @abstractmethod
    def absent(self) -> list[tuple[Call, type[HostlerError] | None]]:
        """Calls about a thing that does not exist, with the error they raise (None: they succeed)."""

    def refusals(self) -> dict[str, list[Call]]:
        """Capability → calls that are refused without it."""
        return {}

    @abstractmethod
    def hostile(self, name: str) -> list[Call]:
        """Calls in which ``name`` stands for a thing: those that make something first."""

    @property
    def apart(self) -> bool:
        """Whether the node's folder is on a file system of its own, which only root can mount."""
        return self.small_records and os.geteuid() == 0

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """Not a byte is free in the node's folder, for the block's time."""
        ballast = self.recipe.host.state_dir / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file:
                for size in (4096, 1):
                    with contextlib.suppress(OSError):  # that it is full
                        while True:
                            file.write(b"x" * size)
            yield
        finally:
            ballast.unlink()

    # --- how it is asked

    def do(self, call: Call, driver: Driver | None = None) -> object:
        """Make a call, where the driver works."""
        verb, args = call
        with self.inside():
            return getattr(driver or self.driver, verb)(*args)

    def do_all(self, calls: list[Call]) -> None:
        """Make calls in order."""
        for call in calls:
            self.do(call)

    def inventory(self) -> Counter[tuple[str, str | None]]:
        """What a driver object that was just made says there is, by kind and owner."""
        with self.inside():
            return Counter((item.kind, item.owner) for item in self.recipe.make().inventory())

    def traces(self) -> set[str]:
        """What can be seen without asking the driver: the files below the node's state folder, locks aside."""
        found = set()
        for place, folders, files in os.walk(self.recipe.host.state_dir):
            folders[:] = [name for name in folders if not name.lstrip(".").startswith("locks")]
            found |= {os.path.relpath(os.path.join(place, name), self.recipe.host.state_dir) for name in (*folders, *files)}
        return found
