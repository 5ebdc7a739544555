"""openat2: the kernel keeps paths in."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.host.beneath import open_beneath, open_in_root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A folder with links that lead out of it, as a descriptor."""
    (tmp_path / "secret").write_text("outside")
    inner = tmp_path / "root"
    inner.mkdir()
    (inner / "secret").write_text("inside")
    (inner / "up").symlink_to("../secret")
    (inner / "abs").symlink_to("/secret")
    (inner / "proc").symlink_to("/proc/self/root")
    fd = os.open(inner, os.O_PATH)
    yield fd
    os.close(fd)


def content(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


@pytest.mark.parametrize("path", [b"secret", b"../secret", b"/secret", b"up", b"abs", b"../../../../secret"])
def test_in_root_every_way_leads_inside(root: int, path: bytes) -> None:
    assert content(open_in_root(root, path, os.O_RDONLY)) == b"inside"


@pytest.mark.parametrize(
    ("path", "number"), [(b"up", errno.ELOOP), (b"abs", errno.ELOOP), (b"../secret", errno.EXDEV), (b"/secret", errno.EXDEV)]
)
def test_beneath_refuses_every_way_out(root: int, path: bytes, number: int) -> None:
    with pytest.raises(OSError) as caught:
        open_beneath(root, path, os.O_RDONLY)
    assert caught.value.errno == number


def test_no_way_through_proc(root: int) -> None:
    with pytest.raises(OSError, match="levels of symbolic links"):
        open_in_root(root, b"proc/etc", os.O_RDONLY)
    with pytest.raises(OSError, match="NUL"):
        open_in_root(root, b"a\0b", os.O_RDONLY)


def test_descriptors_close_on_exec(root: int) -> None:
    fd = open_beneath(root, b"secret", os.O_RDONLY)
    assert not os.get_inheritable(fd)
    os.close(fd)
