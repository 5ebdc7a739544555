"""What only the overlay driver does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.core.errors import Conflict, NoRoom, Unsupported
from hostler.core.units import MIB
from hostler.host import mounts
from hostler_plugins.storage.overlay import Overlay
from tests.plugins.storage.content import IMAGE, fill

pytestmark = pytest.mark.lab


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    """A driver with one image."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    driver = Overlay(Host(installation="test", node="alpha", state_dir=tmp_path / "state", libexec=tmp_path))
    driver.setup()
    driver.add_image(IMAGE, fill)
    return driver


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB that can hold overlays."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    at = tmp_path / "disk"
    at.mkdir()
    mounts.mount("test", at, "tmpfs", options="size=16m")
    try:
        yield at
    finally:
        mounts.unmount(at, lazy=True)


def test_it_says_that_it_enforces_no_size(overlay: Overlay) -> None:
    assert not overlay.capabilities.quota
    assert not overlay.capabilities.live_resize
    lack = overlay.probe().lacks[0]
    assert not lack.blocks
    assert "not enforced" in lack.what
    assert "btrfs" in lack.remedy
    overlay.create("v1", IMAGE, 8 * MIB)
    assert overlay.usage("v1").limit is None
    overlay.resize("v1", None)
    with pytest.raises(Unsupported):
        overlay.resize("v1", 8 * MIB)


def test_an_image_in_use_is_not_removed(overlay: Overlay) -> None:
    overlay.create("v1", IMAGE, None)
    with pytest.raises(Conflict) as caught:
        overlay.remove_image(IMAGE)
    assert "v1" in caught.value.message
    assert overlay.has_image(IMAGE)
    overlay.delete("v1")
    overlay.remove_image(IMAGE)
    overlay.remove_image(IMAGE)
    assert overlay.inventory() == []


def test_usage_counts_what_was_written(overlay: Overlay) -> None:
    overlay.create("v1", IMAGE, None)
    empty = overlay.usage("v1").used
    (overlay._layout.volume("v1") / "upper/f").write_bytes(os.urandom(3 * MIB))
    assert empty < MIB
    assert abs(overlay.usage("v1").used - 3 * MIB) < MIB


def test_the_root_has_the_images_mode_and_owner(overlay: Overlay) -> None:
    def other_root(folder: Path) -> None:
        os.chown(folder, 12, 34)
        folder.chmod(0o1711)

    overlay.add_image("f" * 16, other_root)
    overlay.create("v1", "f" * 16, None)
    upper = (overlay._layout.volume("v1") / "upper").stat()
    assert (upper.st_uid, upper.st_gid, upper.st_mode & 0o7777) == (12, 34, 0o1711)


def test_an_image_that_does_not_fit_is_no_room_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    settings = {"storage:overlay": {"pool": str(small_disk), "reserve": MIB}}
    driver = Overlay(Host(installation="test", node="alpha", state_dir=tmp_path / "state", libexec=tmp_path, settings=settings))
    assert driver.probe().usable
    driver.setup()
    free = driver.free()[0]

    def endless(folder: Path) -> None:
        with (folder / "f").open("wb") as out:
            while True:
                out.write(os.urandom(MIB))

    with pytest.raises(NoRoom):
        driver.add_image(IMAGE, endless)
    assert driver.inventory() == []
    assert driver.free()[0] == free
    driver.add_image(IMAGE, fill)
    (small_disk / "filler").write_bytes(b"x" * (driver.free()[0] - MIB // 2))
    with pytest.raises(NoRoom):
        driver.create("v1", IMAGE, None)
    assert [item.owner for item in driver.inventory()] == [IMAGE]


def test_probe_refuses_a_file_system_without_overlays(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folders = [tmp_path / name for name in ("lower", "upper", "work", "merged")]
    for folder in folders:
        folder.mkdir()
    lower, upper, work, merged = folders
    mounts.mount("test", merged, "overlay", options=f"lowerdir={lower},upperdir={upper},workdir={work}")
    try:
        settings = {"storage:overlay": {"pool": str(merged / "pool")}}
        driver = Overlay(Host(installation="test", node="alpha", state_dir=tmp_path / "state", libexec=tmp_path, settings=settings))
        probe = driver.probe()
        assert not probe.usable
        assert "ext4" in probe.lacks[0].remedy
        assert list(merged.iterdir()) == []
    finally:
        mounts.unmount(merged)


def test_what_a_tenant_piled_up_is_deleted(overlay: Overlay) -> None:
    overlay.create("v1", IMAGE, None)
    upper = overlay._layout.volume("v1") / "upper"
    place = os.open(upper, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("a-folder-with-a-long-name", dir_fd=place)
        below = os.open("a-folder-with-a-long-name", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    assert overlay.usage("v1").used > 0
    overlay.delete("v1")
    assert [item.owner for item in overlay.inventory()] == [IMAGE]
