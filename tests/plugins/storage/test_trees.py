"""Folders full of odd things."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostler_plugins.storage.trees import bytes_below, remove_tree

KIB = 1024


def test_remove_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").touch()
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/out").symlink_to(tmp_path / "outside")
    (tree / "out").symlink_to(tmp_path / "outside")
    remove_tree(tree)
    remove_tree(tree)
    assert not tree.exists()
    assert (tmp_path / "outside/kept").exists()


def test_remove_of_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "tree").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError):
        remove_tree(tmp_path / "tree")
    assert (tmp_path / "outside").is_dir()


def test_remove_copes_with_folders_named_as_its_own(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(1, 6):
        (tree / f"{number}/1/2/3").mkdir(parents=True)
        (tree / f"x/{number}/{number}/{number + 1}").mkdir(parents=True)
        (tree / f"x/{number}/file").touch()
    remove_tree(tree)
    assert not tree.exists()


def test_remove_of_names_that_are_no_text(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    for name in (b"\xff\xfe", b"new\nline", b" ", b"-rf"):
        os.mkdir(os.fsencode(tree) + b"/a/" + name)
        with open(os.fsencode(tree) + b"/a/" + name + b"/\xff", "wb"):
            pass
    remove_tree(tree)
    assert not tree.exists()


def test_bytes_count_a_hard_link_once_and_follow_no_link(tmp_path: Path) -> None:
    tree, large = tmp_path / "tree", tmp_path / "large"
    (tree / "a").mkdir(parents=True)
    large.write_bytes(os.urandom(512 * KIB))
    (tree / "a/one").write_bytes(os.urandom(64 * KIB))
    os.link(tree / "a/one", tree / "two")
    (tree / "link").symlink_to(large)
    (tree / "folder").symlink_to(tmp_path)
    assert 64 * KIB <= bytes_below(tree, 1000) < 128 * KIB


def test_bytes_stop_at_the_bound(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/f").write_bytes(os.urandom(64 * KIB))
    assert bytes_below(tmp_path, 12) < bytes_below(tmp_path, 1000)
    with pytest.raises(FileNotFoundError):
        bytes_below(tmp_path / "none", 1)
