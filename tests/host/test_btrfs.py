"""Subvolumes and quota groups, by ioctl, on a real btrfs; the ``btrfs`` program is asked whether it sees the same."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.core.units import MIB
from hostler.host import btrfs, loop, mounts, qgroups
from hostler.host.process import run
from hostler.host.qgroups import Mode

pytestmark = pytest.mark.lab


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Path]:
    """A mounted btrfs."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if "\tbtrfs\n" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no btrfs")
    try:
        loop.ensure_pool(tmp_path / "file", 256 * MIB, tmp_path / "pool")
        yield tmp_path / "pool"
    finally:
        for mount in mounts.mounts_below(tmp_path):
            mounts.unmount(mount.point, lazy=True)


@pytest.fixture
def fd(pool: Path) -> Iterator[int]:
    """A descriptor of its top folder."""
    with btrfs.opened(pool) as top:
        yield top


def listed(pool: Path) -> set[str]:
    """Paths of all subvolumes, as the program tells."""
    return set(re.findall(r" path (.+)$", run(["btrfs", "subvolume", "list", pool]).text, re.MULTILINE))


def test_a_snapshot_knows_what_it_was_made_from(fd: int) -> None:
    btrfs.create(fd, "one")
    with btrfs.opened("one", fd) as one:
        btrfs.snapshot(one, fd, "two")
        with btrfs.opened("two", fd) as two:
            assert btrfs.uuids(two)[1] == btrfs.uuids(one)[0] != btrfs.uuids(two)[0]
        assert btrfs.uuids(one)[1] == bytes(16)


def test_create_snapshot_destroy(pool: Path, fd: int) -> None:
    btrfs.create(fd, "one")
    (pool / "one/f").write_text("x")
    with btrfs.opened(pool / "one") as one:
        btrfs.snapshot(one, fd, "zwei-ü")
        btrfs.set_read_only(one, True)
        assert f"Subvolume ID: \t\t{btrfs.subvolume_id(one)}" in run(["btrfs", "subvolume", "show", pool / "one"]).text
    assert listed(pool) == {"one", "zwei-ü"}
    assert (pool / "zwei-ü/f").read_text() == "x"
    (pool / "zwei-ü/f").write_text("y")
    with pytest.raises(OSError, match="Read-only"):
        (pool / "one/f").write_text("z")
    for name in ("one", "zwei-ü"):
        btrfs.destroy(fd, name)
    assert listed(pool) == set()


def test_errors_are_the_kernels(pool: Path, fd: int) -> None:
    btrfs.create(fd, "one")
    with pytest.raises(FileExistsError):
        btrfs.create(fd, "one")
    with pytest.raises(FileNotFoundError):
        btrfs.destroy(fd, "none")
    (pool / "folder").mkdir()
    with pytest.raises(OSError) as caught:
        btrfs.destroy(fd, "folder")
    assert caught.value.errno == errno.EINVAL
    for name in ("a/b", "a\0b", "x" * 256):
        with pytest.raises((OSError, ValueError)):
            btrfs.create(fd, name)
    assert listed(pool) == {"one"}


def test_other_file_systems_and_folders_are_told_apart(pool: Path, fd: int, tmp_path: Path) -> None:
    btrfs.create(fd, "one")
    (pool / "folder").mkdir()
    (pool / "link").symlink_to("one")
    assert btrfs.is_subvolume(pool / "one")
    assert not any(btrfs.is_subvolume(pool / name) for name in ("folder", "link", "none"))
    assert btrfs.is_btrfs(pool)
    assert not btrfs.is_btrfs(Path("/proc"))


def test_destroy_takes_what_is_nested_and_read_only(pool: Path, fd: int) -> None:
    btrfs.create(fd, "top")
    place = pool / "top"
    for depth in range(5):
        (place / "folder").mkdir()
        with btrfs.opened(place / "folder") as folder:
            for number in range(3):
                btrfs.create(folder, f"s{number}")
        with btrfs.opened(place) as here:
            btrfs.set_read_only(here, depth % 2 == 0)
        place = place / "folder/s1"
    assert len(listed(pool)) == 16
    gone = btrfs.destroy(fd, "top")
    assert len(set(gone)) == 16
    assert listed(pool) == set()


def test_a_destroyed_subvolume_is_cleaned_away_after_a_commit(pool: Path, fd: int) -> None:
    btrfs.create(fd, "one")
    with btrfs.opened(pool / "one") as one:
        number = btrfs.subvolume_id(one)
    assert btrfs.exists(fd, number)
    btrfs.destroy(fd, "one")
    btrfs.start_commit(fd)
    deadline = time.monotonic() + 10
    while btrfs.exists(fd, number):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_search_longer_than_one_page_is_whole(pool: Path, fd: int) -> None:
    for number in range(100):
        btrfs.create(fd, f"a-rather-long-name-of-a-subvolume-{number}")
    found = btrfs.search(fd, 1, (5, 156, 0), (5, 156, 2**64 - 1))
    assert len({item.offset for item in found}) == 100


@pytest.mark.parametrize("wanted", [Mode.SIMPLE, Mode.FULL])
def test_quota_modes(fd: int, wanted: Mode) -> None:
    if wanted is Mode.SIMPLE and not qgroups.simple_known():
        pytest.skip("this kernel has no simple quotas (Linux 6.7)")
    assert qgroups.mode(fd) is Mode.OFF
    assert qgroups.enable(fd, wanted) is wanted
    assert qgroups.enable(fd, Mode.FULL) is wanted
    assert qgroups.mode(fd) is wanted


def test_a_group_counts_its_members_and_goes_after_them(pool: Path, fd: int) -> None:
    mode = qgroups.enable(fd, Mode.SIMPLE)
    btrfs.create(fd, "origin")
    group = qgroups.group_id(0x8123, 77)
    qgroups.make(fd, group)
    with pytest.raises(FileExistsError):
        qgroups.make(fd, group)
    qgroups.limit(fd, group, 8 * MIB, mode)
    with btrfs.opened(pool / "origin") as origin:
        btrfs.snapshot(origin, fd, "member", group=group)
    with btrfs.opened(pool / "member") as member:
        number = btrfs.subvolume_id(member)
    assert qgroups.parents(fd, number) == [group]
    assert qgroups.members(fd, group) == [number]
    assert qgroups.at_level(fd, 0x8123) == [group]
    (pool / "member/f").write_bytes(os.urandom(2 * MIB))
    charge = qgroups.charge(fd, group, mode)
    assert charge.limit == 8 * MIB
    assert 2 * MIB <= charge.used < 3 * MIB
    qgroups.limit(fd, group, None, mode)
    assert qgroups.charge(fd, group, mode).limit is None
    assert not qgroups.reap(fd, group)
    btrfs.destroy(fd, "member")
    deadline = time.monotonic() + 10
    while not qgroups.reap(fd, group):
        assert time.monotonic() < deadline
        btrfs.start_commit(fd)
        time.sleep(0.02)
    assert qgroups.at_level(fd, 0x8123) == []
    with pytest.raises(FileNotFoundError):
        qgroups.charge(fd, group, mode)
