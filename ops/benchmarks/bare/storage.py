"""Storage: ``btrfs``; ``cp`` and ``resize2fs``; ``mkdir`` and ``rm``."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from functools import partial
from pathlib import Path

from bare.step import Step, Subject, tool
from hostler.testing.arenas.storage import IMAGE, SIZE, StorageArena

_SIZE, _LARGER = SIZE, 2 * SIZE


class Volumes(Subject):
    """What all three do."""

    def __init__(self, arena: StorageArena) -> None:
        self.driver = arena.storage
        places = (arena.folder / "pool", arena.folder / "small", arena.recipe.host.state_dir)
        self.image = next(found for place in places for found in place.rglob(f"images/{IMAGE}"))
        self.bare = self.image.parent.parent / "bare"
        self.bare.mkdir()
        self.at = self.bare / "volume"
        self.then = self.bare / "snapshot"

    def steps(self, number: int) -> list[Step]:
        volume, driver, can = "v00", self.driver, self.driver.capabilities
        steps = [Step("create", partial(driver.create, volume, IMAGE, _SIZE), self.create, self.created)]
        if can.quota:
            steps.append(Step("resize", partial(driver.resize, volume, _LARGER), self.resize, self.resized))
        steps.append(Step("usage", partial(driver.usage, volume), self.usage))
        if can.snapshot:
            steps.append(Step("snapshot", partial(driver.snapshot, volume, "s1"), self.snapshot, self.snapped))
            steps.append(Step("delete_snapshot", partial(driver.delete_snapshot, volume, "s1"), self.delete_snapshot))
        return [*steps, Step("delete", partial(driver.delete, volume), self.delete)]

    created = resized = snapped = ""

    @abstractmethod
    def create(self) -> None:
        """A volume of the image."""

    @abstractmethod
    def resize(self) -> None:
        """Give it another size."""

    def usage(self) -> None:
        tool("du", "-s", self.at)

    @abstractmethod
    def snapshot(self) -> None:
        """Keep its files as they are."""

    def delete_snapshot(self) -> None:
        tool("rm", "-r", self.then)

    def delete(self) -> None:
        tool("rm", "-r", self.at)

    def close(self) -> None:
        tool("rm", "-rf", self.bare)


class Btrfs(Volumes):
    """A group with a limit, a snapshot in it."""

    created = "group, limit, snapshot: 3 processes"
    _numbers = itertools.count(10_000)

    def create(self) -> None:
        self._group = f"1/{next(self._numbers)}"
        tool("btrfs", "qgroup", "create", self._group, self.bare)
        tool("btrfs", "qgroup", "limit", str(_SIZE), self._group, self.bare)
        tool("btrfs", "subvolume", "snapshot", "-i", self._group, self.image, self.at)

    def resize(self) -> None:
        tool("btrfs", "qgroup", "limit", str(_LARGER), self._group, self.bare)

    def usage(self) -> None:
        tool("btrfs", "qgroup", "show", "-F", "--raw", self.at)

    def snapshot(self) -> None:
        tool("btrfs", "subvolume", "snapshot", "-r", self.at, self.then)

    def delete_snapshot(self) -> None:
        tool("btrfs", "subvolume", "delete", self.then)

    def delete(self) -> None:
        tool("btrfs", "subvolume", "delete", self.at)


class Loop(Volumes):
    """A copy of the image's disk, grown."""

    created, resized, snapped = "cp, truncate, resize2fs", "e2fsck, truncate, resize2fs", "cp, sync of file and folder"

    def create(self) -> None:
        self._copy(self.image / "disk", self.at)
        self._grow(_SIZE)

    def resize(self) -> None:
        tool("e2fsck", "-f", "-p", self.at)
        self._grow(_LARGER)

    def usage(self) -> None:
        tool("dumpe2fs", "-h", self.at)

    def snapshot(self) -> None:
        self._copy(self.at, self.then)
        tool("sync", self.then, self.bare)

    def _copy(self, source: Path, target: Path) -> None:
        tool("cp", "--reflink=auto", "--sparse=always", source, target)

    def _grow(self, size: int) -> None:
        tool("truncate", "-s", str(size + (32 << 20)), self.at)
        tool("resize2fs", "-f", self.at)


class Overlay(Volumes):
    """Two folders."""

    created = "mkdir"

    def create(self) -> None:
        tool("mkdir", self.at, self.at / "upper", self.at / "work")

    def resize(self) -> None:
        raise LookupError("folders have no size")

    def snapshot(self) -> None:
        raise LookupError("folders have no snapshots")


KINDS: dict[str, type[Volumes]] = {"btrfs": Btrfs, "loop": Loop, "overlay": Overlay}
