"""Real pools: btrfs in a file, mounted, in both ways of counting; and overlays on the disk's file system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.contracts.storage import Storage
from hostler.core.names import new_id
from hostler.core.units import MIB
from hostler.host import mounts
from hostler.host.qgroups import Mode
from hostler_plugins.storage.btrfs import Btrfs
from hostler_plugins.storage.loop import Loop
from hostler_plugins.storage.overlay import Overlay
from tests.plugins.storage.content import IMAGE, fill

MakeBtrfs = Callable[..., Btrfs]
MakeLoop = Callable[..., Loop]


@pytest.fixture(scope="session")
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def make_btrfs(tmp_path: Path, _root: None) -> Iterator[MakeBtrfs]:
    """Makes btrfs drivers of hosts of their own, with their pools; all is unmounted in the end."""
    if not mounts.kernel_has("btrfs"):
        pytest.skip("this kernel has no btrfs")

    def make(size: int = 512 * MIB, quota: Mode = Mode.SIMPLE, *, state: Path | None = None, setup: bool = True) -> Btrfs:
        folder = state or tmp_path / f"state-{new_id()}"
        settings = {"pool": str(folder / "pool"), "file": str(folder / "pool.btrfs"), "size": size, "quota": quota.value, "reserve": 8 * MIB}
        driver = Btrfs(Host(installation="test", node="alpha", state_dir=folder, libexec=tmp_path, settings={"storage:btrfs": settings}))
        if setup:
            driver.setup()
        return driver

    try:
        yield make
    finally:
        for mount in mounts.mounts_below(tmp_path):
            mounts.unmount(mount.point, lazy=True)


@pytest.fixture
def pool(make_btrfs: MakeBtrfs) -> Btrfs:
    """A btrfs driver with a pool of 512 MB and simple quotas, and one image in it."""
    driver = make_btrfs()
    driver.add_image(IMAGE, fill)
    return driver


@pytest.fixture
def make_loop(tmp_path: Path, make_btrfs: MakeBtrfs) -> Iterator[MakeLoop]:
    """Makes loop drivers of hosts of their own, on the disk's file system or on a btrfs; nothing stays mounted or attached."""

    def make(*, on_btrfs: bool = False, state: Path | None = None) -> Loop:
        folder = state or tmp_path / f"state-{new_id()}"
        settings: dict[str, object] = {"reserve": 8 * MIB}
        if on_btrfs:
            settings["pool"] = str(make_btrfs()._pool)
        driver = Loop(Host(installation="test", node="alpha", state_dir=folder, libexec=tmp_path, settings={"storage:loop": settings}))
        driver.setup()
        return driver

    yield make
    for mount in mounts.mounts_below(tmp_path):
        if mount.source.startswith("/dev/loop") and mount.kind == "ext4":
            mounts.unmount(mount.point, lazy=True)


@pytest.fixture(params=["btrfs-simple", "btrfs-full", "overlay", "loop", "loop-btrfs"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, make_btrfs: MakeBtrfs, make_loop: MakeLoop) -> Storage:
    """Each driver, set up, with one image."""
    driver: Storage
    if request.param == "overlay":
        driver = Overlay(Host(installation="test", node="alpha", state_dir=tmp_path / "state", libexec=tmp_path))
        driver.setup()
    elif request.param.startswith("loop"):
        driver = make_loop(on_btrfs=request.param == "loop-btrfs")
    else:
        driver = make_btrfs(quota=Mode.SIMPLE if request.param == "btrfs-simple" else Mode.FULL)
    driver.add_image(IMAGE, fill)
    return driver
