"""A checkpoint's parts passed on without a copy, and pipes with somebody at the other end."""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from hostler.core.errors import Invalid
from hostler.mobility.keys import Key
from hostler.mobility.manifest import CHUNK, PartKind
from hostler.mobility.poured import Poured
from hostler.mobility.reading import verify
from hostler.mobility.walk import Walk
from hostler.mobility.writing import PartSource, of_bytes, write
from tests.mobility.conftest import a_manifest

PARTS = {"a": b"", "pages-1": hashlib.shake_128(b"x").digest(CHUNK * 2 + 7), "zeros": bytes(CHUNK + 1), "last": b"end"}


@pytest.fixture(params=["plain", "sealed"], name="key")
def some_key(request: pytest.FixtureRequest) -> Key | None:
    return Key(bytes(range(32))) if request.param == "sealed" else None


@pytest.fixture
def file(tmp_path: Path, key: Key | None) -> Path:
    write(tmp_path / "c", a_manifest(), [of_bytes(data, name, PartKind.STATE) for name, data in PARTS.items()], key=key)
    return tmp_path / "c"


def names(walk: Walk) -> list[str]:
    return [part.name for part in walk.manifest.parts]


def test_all_parts_are_read_one_after_the_other(file: Path, key: Key | None) -> None:
    with file.open("rb", buffering=0) as source:
        walk = Walk(source, key)
        for name, data in PARTS.items():
            assert io.BufferedReader(walk.open(names(walk).index(name)), 1000).read() == data
        walk.finish()
        with pytest.raises(ValueError, match="passed already"):
            walk.open(0)


def test_one_is_read_and_the_others_passed_over(file: Path, key: Key | None) -> None:
    with file.open("rb", buffering=0) as source:
        walk = Walk(source, key)
        part = walk.open(names(walk).index("pages-1"))
        assert part.read(3) == PARTS["pages-1"][:3]
        assert walk.open(names(walk).index("last")).read() == b"end"
        walk.finish()


def test_a_flipped_bit_and_another_key_are_seen(file: Path, key: Key | None) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    walk = Walk(io.BytesIO(bytes(content)), key)
    with pytest.raises(Invalid, match="does not match its digest"):
        walk.open(names(walk).index("pages-1")).read()
    walk = Walk(io.BytesIO(file.read_bytes()[:-1]), key)
    with pytest.raises(Invalid, match="trailer"):
        walk.finish()
    if key is not None:
        with pytest.raises(Invalid, match="the key given is"):
            Walk(io.BytesIO(file.read_bytes()), Key(bytes(range(1, 33))))


def test_what_is_passed_on_is_the_same_checkpoint(file: Path, key: Key | None, tmp_path: Path) -> None:
    with file.open("rb", buffering=0) as source:
        walk = Walk(source, key)
        first = 1 if key else 0
        parts = [PartSource(info.name, info.kind, partial(walk.open, index), info.size) for index, info in enumerate(walk.manifest.parts)][first:]
        write(tmp_path / "d", a_manifest(), parts, key=key)
    assert verify(tmp_path / "d", key).parts == verify(file, key).parts


def test_what_is_poured_is_read_and_a_failure_is_no_end() -> None:
    def work(out: BinaryIO) -> None:
        for _ in range(100):
            out.write(bytes(5000))

    poured, got, buffer = Poured(work), 0, memoryview(bytearray(7777))
    while count := poured.readinto(buffer):
        got += count
    poured.close()
    poured.close()
    assert got == 500_000

    def broken(out: BinaryIO) -> None:
        out.write(b"some")
        raise Invalid("it broke", hint="mend it")

    poured = Poured(broken)
    assert poured.readinto(buffer) == 4
    with pytest.raises(Invalid, match="it broke"):
        poured.readinto(buffer)
    poured.close()


def test_whoever_pours_for_nobody_is_told() -> None:
    ended: list[BaseException] = []

    def work(out: BinaryIO) -> None:
        try:
            while True:
                out.write(bytes(1 << 20))
        except BrokenPipeError as error:
            ended.append(error)
            raise

    Poured(work).close()
    assert len(ended) == 1
