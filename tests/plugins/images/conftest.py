"""Archives for the tests, friendly and hostile, and a folder to unpack them in whose surroundings are watched."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostler.contracts.driver import Host

#: Name, type, and what else of a TarInfo; ``data`` is the content.
Make = Callable[..., bytes]


def _make(*items: dict[str, object], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for item in items:
            entry = tarfile.TarInfo(str(item["name"]))
            data = item.get("data", b"")
            assert isinstance(data, bytes)
            entry.size = len(data)
            for key, value in item.items():
                if key not in ("name", "data"):
                    setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture(scope="session")
def make_tar() -> Make:
    """A function that makes a tar from dictionaries of TarInfo's attributes, with ``data``."""
    return _make


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host whose folders are the test's own."""
    return Host(installation="test", node="n1", state_dir=tmp_path / "state", libexec=tmp_path)


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """What is in a folder: each name with inode, mode, owner, size, number of links and time of change."""
    found: dict[str, tuple[int, ...]] = {}
    for path in [folder, *folder.rglob("*")]:
        status = os.lstat(path)
        found[str(path)] = (
            status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_nlink, status.st_ctime_ns,
        )  # fmt: skip
    return found


@pytest.fixture
def into(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, next to one with valuables. Fails the test when anything outside of it was touched."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("keep")
    (outside / "folder").mkdir()
    inner = tmp_path / "target"
    inner.mkdir(mode=0o700)
    before = snapshot(outside)
    yield inner
    assert snapshot(outside) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"outside", "target", "state", "archive"}
