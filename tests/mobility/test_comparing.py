"""Images that were kept unpacked are held against their checkpoint."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hostler.core.errors import HostlerError, Invalid
from hostler.mobility.comparing import compare
from hostler.mobility.keys import Key
from hostler.mobility.manifest import CHUNK
from hostler.mobility.writing import of_folder, write
from tests.mobility.conftest import a_manifest

KEYS = pytest.mark.parametrize("key", [None, Key(bytes(range(32)))], ids=["plain", "encrypted"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images: one over the borders of chunks with zeros in it, a small one, an empty one."""
    made = tmp_path / "images"
    made.mkdir()
    (made / "pages-1.img").write_bytes(random.Random(1).randbytes(CHUNK) + bytes(CHUNK) + random.Random(2).randbytes(CHUNK + 7))
    (made / "core-1.img").write_bytes(b"registers")
    (made / "empty.img").write_bytes(b"")
    return made


@KEYS
def test_the_same_is_the_same(folder: Path, tmp_path: Path, key: Key | None) -> None:
    write(tmp_path / "c", a_manifest(), of_folder(folder), key=key)
    (folder / "restore.log").write_text("what is no part is passed over")
    assert compare(tmp_path / "c", folder, key).id == "ckpt0001"


@pytest.mark.parametrize("offset", [0, CHUNK - 1, CHUNK, CHUNK + 5, 2 * CHUNK, 3 * CHUNK + 6])
def test_one_byte_makes_a_difference(folder: Path, tmp_path: Path, offset: int) -> None:
    write(tmp_path / "c", a_manifest(), of_folder(folder))
    with (folder / "pages-1.img").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(Invalid, match="not what the checkpoint says"):
        compare(tmp_path / "c", folder)


@pytest.mark.parametrize("change", ["longer", "shorter", "gone", "link"])
def test_so_does_a_files_length_and_kind(folder: Path, tmp_path: Path, change: str) -> None:
    write(tmp_path / "c", a_manifest(), of_folder(folder))
    file = folder / "core-1.img"
    if change == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif change == "gone":
        file.unlink()
    else:
        file.write_bytes(b"registers and more" if change == "longer" else b"regist")
    with pytest.raises(HostlerError):
        compare(tmp_path / "c", folder)


def test_a_damaged_checkpoint_is_told(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "c", a_manifest(), of_folder(folder))
    whole = bytearray((tmp_path / "c").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "c").write_bytes(whole)
    with pytest.raises(Invalid):
        compare(tmp_path / "c", folder)
