"""Project quotas, by value: what is said to the kernel, and how its answers are read."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from hostler.host import mountinfo, projects

_LINE = "36 35 98:0 / /srv rw,noatime shared:1 - {kind} /dev/sdb1 {options}\n"


@pytest.mark.parametrize(
    ("kind", "options", "enforced"),
    [
        ("ext4", "rw,prjquota", True),
        ("xfs", "rw,attr2,prjquota", True),
        ("xfs", "rw,pquota", True),
        ("ext4", "rw", False),
        ("ext4", "rw,usrquota,grpquota", False),
        ("xfs", "rw,pqnoenforce", False),
        ("btrfs", "rw,prjquota", False),
    ],
)
def test_mount_options_tell_whether_limits_are_enforced(kind: str, options: str, enforced: bool) -> None:
    mount = mountinfo.parse(_LINE.format(kind=kind, options=options))[0]
    assert projects.enforced_on(mount) is enforced


@pytest.mark.parametrize(("size", "blocks"), [(None, 0), (0, 1), (1, 1), (1024, 1), (1 << 30, 1 << 20), ((1 << 20) + 1023, 1024)])
def test_a_limit_is_a_hard_one_of_blocks_alone(size: int | None, blocks: int) -> None:
    data = projects.limiting(size)
    assert len(data) == 72  # struct if_dqblk
    assert struct.unpack_from("=8QI", data) == (blocks, 0, 0, 0, 0, 0, 0, 0, 1)


def test_a_count_is_read_from_bytes_in_use_and_blocks_allowed() -> None:
    quota = struct.pack("=8QI4x", 2048, 0, 12345, 0, 0, 7, 0, 0, 63)
    assert projects.counted(quota) == projects.Count(used=12345, files=7, limit=2048 * 1024)
    assert projects.counted(bytes(72)) == projects.Count(0, 0, None)


def test_a_folder_keeps_its_other_attributes_and_hands_the_number_down() -> None:
    before = struct.pack("=5I8x", 0x8, 16, 3, 0, 5)
    assert len(before) == 28  # struct fsxattr
    assert struct.unpack("=5I8x", projects.with_project(before, 1 << 30)) == (0x208, 16, 3, 1 << 30, 5)


def test_a_folder_of_nobody_has_number_0(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert projects.project_of(handle) == 0
    finally:
        os.close(handle)
