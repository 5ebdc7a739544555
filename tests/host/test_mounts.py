"""Mounting, unmounting, and seeing what is mounted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.core.errors import HostFailure
from hostler.host import mounts

pytestmark = pytest.mark.lab


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount on, whose name needs escapes in mountinfo."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = tmp_path / "a b\tc\\d\nü"
    folder.mkdir()
    try:
        yield folder
    finally:
        for mount in mounts.mounts_below(tmp_path):
            mounts.unmount(mount.point, lazy=True)


def test_a_mount_is_seen_and_goes(point: Path) -> None:
    assert not mounts.is_mounted(point)
    mounts.mount("test", point, "tmpfs", mounts.Flags.NO_DEV | mounts.Flags.NO_SUID, "size=64k,mode=0711")
    assert mounts.is_mounted(point)
    assert point.stat().st_mode & 0o7777 == 0o711
    assert os.statvfs(point).f_flag & os.ST_NOSUID
    mounts.unmount(point)
    mounts.unmount(point)
    assert not mounts.is_mounted(point)


def test_a_bind_within_one_file_system_is_seen(point: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/f").touch()
    mounts.bind(tmp_path / "source", point)
    assert (point / "f").exists()
    assert not os.path.ismount(point)
    assert mounts.is_mounted(point)
    assert mounts.mount_holding(point / "f/not/there").point == point.resolve()


def test_mounts_below_come_in_the_order_to_unmount(point: Path, tmp_path: Path) -> None:
    mounts.mount("one", point, "tmpfs")
    (point / "in").mkdir()
    mounts.mount("two", point / "in", "tmpfs")
    mounts.mount("three", point / "in", "tmpfs")
    found = mounts.mounts_below(tmp_path)
    assert [mount.source for mount in found] == ["three", "two", "one"]
    top = mounts.at(point / "in")
    assert top is not None
    assert top.source == "three"
    mounts.unmount(point / "in")
    assert [mount.source for mount in mounts.mounts_below(tmp_path)] == ["one"]


def test_a_busy_mount_says_so(point: Path) -> None:
    mounts.mount("test", point, "tmpfs")
    with (point / "f").open("w"):
        with pytest.raises(HostFailure) as caught:
            mounts.unmount(point)
        assert caught.value.stable_code == "mount_busy"
        mounts.unmount(point, lazy=True)
    assert not mounts.is_mounted(point)


def test_failures_carry_the_kernels_reason(point: Path) -> None:
    with pytest.raises(HostFailure, match="No such device"):
        mounts.mount("test", point, "no-such-file-system")
    with pytest.raises(HostFailure, match="No such file"):
        mounts.bind(point / "none", point)


def test_what_the_kernel_can_mount_is_told() -> None:
    assert mounts.kernel_has("tmpfs")
    assert not mounts.kernel_has("nosuchfs")


def test_trying_a_mount_mounts_nothing(point: Path, tmp_path: Path) -> None:
    mounts.try_mount("tmpfs", {"size": "64k"})
    with pytest.raises(OSError):
        mounts.try_mount("overlay", {"lowerdir": str(tmp_path / "none")})
    assert mounts.mounts_below(tmp_path) == []
