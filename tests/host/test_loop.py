"""Pools in files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostler.core.errors import Conflict, HostFailure
from hostler.core.units import MIB
from hostler.host import loop, mounts

pytestmark = pytest.mark.lab


@dataclass
class Pool:
    """Where one is to be."""

    file: Path
    at: Path

    def ensure(self, fstype: str = "btrfs") -> None:
        """Make or mount it."""
        loop.ensure_pool(self.file, 128 * MIB, self.at, fstype)

    def remove(self) -> None:
        """Unmount and delete it."""
        loop.remove_pool(self.file, self.at)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """A place for one; what is mounted there goes in the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    try:
        yield Pool(tmp_path / "in/pool.img", tmp_path / "at")
    finally:
        for mount in mounts.mounts_below(tmp_path):
            mounts.unmount(mount.point, lazy=True)


def detached(file: Path) -> bool:
    """Whether no loop device holds the file; the kernel lets go a moment after the unmount."""
    deadline = time.monotonic() + 5
    while loop.device_of(file) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("fstype", ["btrfs", "ext4"])
def test_a_pool_is_made_once_and_removed(pool: Pool, fstype: str) -> None:
    pool.ensure(fstype)
    (pool.at / "f").write_text("kept")
    pool.ensure(fstype)
    assert len(mounts.mounts_below(pool.at)) == 1
    mount = mounts.at(pool.at)
    assert mount is not None
    assert mount.kind == fstype
    assert pool.file.stat().st_size == 128 * MIB
    assert pool.file.stat().st_blocks * 512 < 64 * MIB  # sparse
    assert pool.file.stat().st_mode & 0o077 == 0
    mounts.unmount(pool.at)
    assert detached(pool.file)
    pool.ensure(fstype)
    assert (pool.at / "f").read_text() == "kept"
    pool.remove()
    pool.remove()
    assert not pool.at.exists()
    assert os.listdir(pool.file.parent) == []


def test_a_crash_while_it_was_made_leaves_no_half_made_pool(pool: Pool) -> None:
    pool.file.parent.mkdir()
    loop._draft(pool.file).write_bytes(b"half made")
    pool.ensure()
    assert os.listdir(pool.file.parent) == [pool.file.name]


def test_a_failed_mkfs_leaves_nothing(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loop._KINDS, "btrfs", (("false",), MIB, ""))
    with pytest.raises(HostFailure):
        pool.ensure()
    assert os.listdir(pool.file.parent) == []
    assert not mounts.is_mounted(pool.at)


def test_a_failed_mount_frees_the_loop_device(pool: Pool) -> None:
    pool.file.parent.mkdir()
    pool.file.write_bytes(b"\0" * MIB)
    with pytest.raises(HostFailure):
        pool.ensure()
    assert detached(pool.file)


def test_two_mounts_of_one_file_share_its_device(pool: Pool, tmp_path: Path) -> None:
    pool.ensure()
    loop.ensure_pool(pool.file, 128 * MIB, tmp_path / "second")
    (pool.at / "f").write_text("seen")
    assert (tmp_path / "second/f").read_text() == "seen"


def test_eight_threads_make_one_pool(pool: Pool) -> None:
    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(pool.ensure) for _ in range(8)]:
            future.result(timeout=60)
    assert len(mounts.mounts_below(pool.at)) == 1


def test_something_else_mounted_there_is_a_conflict(pool: Pool) -> None:
    pool.at.mkdir()
    mounts.mount("test", pool.at, "tmpfs")
    with pytest.raises(Conflict):
        pool.ensure()


def test_a_busy_pool_is_not_removed(pool: Pool) -> None:
    pool.ensure()
    with (pool.at / "f").open("w"), pytest.raises(HostFailure):
        pool.remove()
    assert pool.file.exists()
    assert mounts.is_mounted(pool.at)


def test_a_pool_that_is_too_small_is_refused(pool: Pool) -> None:
    with pytest.raises(HostFailure, match="too small"):
        loop.ensure_pool(pool.file, MIB, pool.at)
    assert not pool.file.exists()
