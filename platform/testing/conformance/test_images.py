"""Promises of images drivers."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from hostler.contracts.images import UnpackLimits
from hostler.core.errors import HostlerError, Invalid
from hostler.host import mounts
from hostler.testing.arenas.images import HONEST, HOSTILE, LINKS, ImagesArena
from hostler.testing.content import NAMES


@pytest.mark.promise("unpack", "an honest archive is unpacked whole, whatever its files are called")
def test_honest(arena: ImagesArena) -> None:
    archive = arena.archive(())
    assert arena.images.accepts(archive)
    root, told = arena.unpack(archive)
    for name in NAMES:
        assert (root / "etc" / name).read_text() == name
    assert os.readlink(root / "etc/climbs") == "../../../etc/shadow"
    assert told.entries >= len(HONEST)


@pytest.mark.promise("hostile", "an archive that climbs out or brings devices is refused; not even through links is anything written outside of the root")
def test_hostile(arena: ImagesArena) -> None:
    for what, entries in HOSTILE.items():
        with pytest.raises(Invalid) as raised:
            arena.unpack(arena.archive(entries))
        assert raised.value.message and raised.value.hint, what
        assert arena.strays() == [], what
    for what, entries in LINKS.items():
        with contextlib.suppress(Invalid):
            arena.unpack(arena.archive(entries))
        assert arena.strays() == [], what


@pytest.mark.promise("bounds", "an archive of more bytes or entries than allowed is refused")
def test_bounds(arena: ImagesArena) -> None:
    big = arena.archive((("etc/big", "f", "x" * 300_000),))
    for limits in (UnpackLimits(bytes=200_000), UnpackLimits(entries=4)):
        with pytest.raises(Invalid):
            arena.unpack(big, limits)


@pytest.mark.promise("accepts", "accepts never raises for content, and unpack refuses what is broken in words")
def test_rubbish(arena: ImagesArena) -> None:
    whole = arena.archive(()).read_bytes()
    for number, content in enumerate((b"", b"\0" * 5000, os.urandom(5000), b"{", whole[: len(whole) // 2])):
        file = arena.folder / f"rubbish{number}"
        file.write_bytes(content)
        arena.images.accepts(file)
        with pytest.raises(Invalid) as raised:
            arena.unpack(file)
        assert raised.value.message


@pytest.mark.promise("no-room", "an archive for which the disk has no room is refused in words")
def test_full(arena: ImagesArena) -> None:
    if os.geteuid() != 0:
        pytest.skip("nobody but root may mount a disk that can be filled")
    into = arena.folder / "tiny"
    into.mkdir()
    mounts.mount("tmpfs", into, "tmpfs", options="size=128k")
    with pytest.raises(HostlerError) as raised:
        arena.images.unpack(arena.archive((("etc/big", "f", "x" * 400_000),)), into, UnpackLimits())
    assert raised.value.message and raised.value.hint


@pytest.mark.promise("together", "eight threads unpack at once")
def test_many_at_once(arena: ImagesArena) -> None:
    archive = arena.archive(())
    with ThreadPoolExecutor(8) as pool:
        for answer in [pool.submit(arena.unpack, archive) for _ in range(8)]:
            root, _ = answer.result()
            assert (root / "etc/hosts").read_text().startswith("127.0.0.1")
