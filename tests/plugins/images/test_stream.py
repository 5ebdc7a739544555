"""Decompression: every form comes back, bounded, and damage is named."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
import zstandard

from hostler.contracts.images import UnpackLimits
from hostler.core.errors import Invalid
from hostler.core.units import MIB
from hostler_plugins.images.stream import Budget, Slice, Stream, decompressed

Pack = Callable[[bytes], bytes]
FORMS: dict[str, Pack] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "bzip2": lambda data: bz2.compress(data, 1),
    "zstd": lambda data: zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data),
    "plain": bytes,
}
COMPRESSED = [name for name in FORMS if name != "plain"]
CONTENT = random.Random(5).randbytes(300_000) + b"abc" * 400_000


@pytest.fixture
def part() -> Iterator[Callable[[bytes], Slice]]:
    """A function that puts bytes into a file and gives them as a slice."""
    with tempfile.TemporaryFile() as file:

        def put(data: bytes) -> Slice:
            file.seek(0)
            file.truncate()
            file.write(data)
            file.flush()
            return Slice.whole(file.fileno())

        yield put


def everything(part: Slice, size: int = 50_000) -> bytes:
    source = decompressed(part)
    return b"".join(iter(lambda: source.read(size), b""))


@pytest.mark.parametrize("form", FORMS)
def test_comes_back(part: Callable[[bytes], Slice], form: str) -> None:
    assert everything(part(FORMS[form](CONTENT))) == CONTENT


@pytest.mark.parametrize("form", COMPRESSED)
def test_members_after_each_other_are_one(part: Callable[[bytes], Slice], form: str) -> None:
    pack = FORMS[form]
    assert everything(part(pack(CONTENT) + pack(b"") + pack(b"more"))) == CONTENT + b"more"


@pytest.mark.parametrize("form", ["gzip", "xz", "bzip2"])
def test_padding_is_no_damage_and_rubbish_is(part: Callable[[bytes], Slice], form: str) -> None:
    packed = FORMS[form](b"data")
    assert everything(part(packed + bytes(700_000))) == b"data"
    with pytest.raises(Invalid, match="does not decompress"):
        everything(part(packed + b"rubbish here"))


@pytest.mark.parametrize("form", ["gzip", "xz", "bzip2"])
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_a_cut_is_named(part: Callable[[bytes], Slice], form: str, share: float) -> None:
    packed = FORMS[form](CONTENT)
    with pytest.raises(Invalid, match="too early"):
        everything(part(packed[: int(len(packed) * share)]))


@pytest.mark.parametrize("form", COMPRESSED)
def test_damage_is_named(part: Callable[[bytes], Slice], form: str) -> None:
    packed = bytearray(FORMS[form](CONTENT))
    packed[20:120] = bytes(100)
    with pytest.raises(Invalid, match="damaged"):
        everything(part(bytes(packed)))


@pytest.mark.parametrize("form", COMPRESSED)
def test_a_bomb_is_stopped_in_constant_memory(part: Callable[[bytes], Slice], form: str) -> None:
    bomb = part(FORMS[form](bytes(64 * MIB)))
    assert bomb.size < MIB
    stream = Stream(decompressed(bomb), Budget(UnpackLimits(bytes=8 * MIB, entries=1)))
    tracemalloc.start()
    with pytest.raises(Invalid) as caught:
        stream.drain()
    assert tracemalloc.get_traced_memory()[1] < 12 * MIB
    tracemalloc.stop()
    assert caught.value.stable_code == "image_too_large"
    assert stream.position <= 9 * MIB


def test_xz_may_not_ask_for_gigabytes(part: Callable[[bytes], Slice]) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 28}]
    with pytest.raises(Invalid, match="(?i)memory"):
        everything(part(lzma.compress(b"x", filters=filters)))


def test_slices_of_one_file_do_not_disturb_each_other(part: Callable[[bytes], Slice]) -> None:
    whole = part(b"0123456789")
    first, second = Slice(whole.fd, 0, 5), Slice(whole.fd, 5, 5)
    assert (first.read(2), second.read(9), first.read(9), first.read(1)) == (b"01", b"56789", b"234", b"")
    assert not second.again().skip(6)
    assert os.lseek(whole.fd, 0, os.SEEK_CUR) == 10
