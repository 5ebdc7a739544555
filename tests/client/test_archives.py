"""A layout folder becomes one file, the same every time."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from hostler.client.archives import is_layout, tar_layout
from hostler.core.errors import Invalid


def make_layout(folder: Path, order: int) -> None:
    blobs = [b"one", b"two", b"three"][::order]
    (folder / "blobs/sha256").mkdir(parents=True)
    for blob in blobs:
        (folder / "blobs/sha256" / hashlib.sha256(blob).hexdigest()).write_bytes(blob)
    (folder / "index.json").write_text("{}")
    (folder / "oci-layout").write_text("{}")
    (folder / "blobs/sha256/.partial").write_text("left out")
    (folder / "notes.txt").write_text("left out")


def test_the_same_layout_gives_the_same_bytes(tmp_path: Path) -> None:
    archives = []
    for name, order, mask in (("a", 1, 0o022), ("b", -1, 0o077)):
        before = os.umask(mask)
        try:
            (tmp_path / name).mkdir()
            make_layout(tmp_path / name, order)
        finally:
            os.umask(before)
        os.utime(tmp_path / name / "index.json", (order + 5, 7))
        out = io.BytesIO()
        tar_layout(tmp_path / name, out)
        archives.append(out.getvalue())
    assert archives[0] == archives[1]
    with tarfile.open(fileobj=io.BytesIO(archives[0])) as tar:
        names = tar.getnames()
    assert names[:2] == ["oci-layout", "index.json"]
    assert [name.rpartition("/")[0] for name in names[2:]] == ["blobs/sha256"] * 3


def test_what_is_no_layout_is_refused(tmp_path: Path) -> None:
    assert not is_layout(tmp_path)
    with pytest.raises(Invalid, match="no OCI image layout") as caught:
        tar_layout(tmp_path, io.BytesIO())
    assert "skopeo" in caught.value.hint
