"""Quota groups: what the kernel removes by itself is gone, however it says so."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hostler.host import qgroups


def test_a_group_that_goes_while_it_is_read_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of sysfs say ENODEV when what they tell of is removed between their opening and their reading."""

    def removed(_handle: int, _size: int) -> bytes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    folder = tmp_path / "fs" / "qgroups" / "0_257"
    folder.mkdir(parents=True)
    (folder / "referenced").write_text("4096\n")
    monkeypatch.setattr(qgroups, "_SYS", tmp_path)
    monkeypatch.setattr("hostler.host.btrfs.fsid", lambda _fd: "fs")
    assert qgroups._charged(0, 257) is True
    monkeypatch.setattr("os.read", removed)
    assert qgroups._charged(0, 257) is False
