"""Promises of storage drivers."""

from __future__ import annotations

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hostler.core.errors import Conflict, HostlerError, Invalid, NoRoom, NotFound
from hostler.core.units import GIB, MIB
from hostler.testing.arenas.storage import IMAGE, SIZE, StorageArena
from hostler.testing.content import NAMES, Fill


@pytest.mark.promise("image-whole", "an image appears whole or not at all: an error while it is filled is passed on and leaves nothing")
def test_failed_fill(arena: StorageArena) -> None:
    before, present = arena.traces(), arena.inventory()
    with pytest.raises(RuntimeError, match="the archive ends here"):
        arena.storage.add_image("0badc0de", Fill(fails=True))
    assert not arena.storage.has_image("0badc0de")
    assert arena.inventory() == present
    assert arena.traces() <= before


@pytest.mark.promise("image-once", "an image that two ask for at once is unpacked once")
def test_filled_once(arena: StorageArena) -> None:
    filled = []

    def fill(folder: Path) -> None:
        filled.append(folder)
        time.sleep(0.05)
        Fill()(folder)

    with ThreadPoolExecutor(8) as pool:
        for answer in [pool.submit(arena.storage.add_image, "feed", fill) for _ in range(8)]:
            answer.result()
    assert len(filled) == 1


@pytest.mark.promise("apart", "volumes have the image's files, whatever their names, and what is written to one is seen in no other")
def test_volumes_are_apart(arena: StorageArena) -> None:
    for volume in ("v01", "v02"):
        arena.storage.create(volume, IMAGE, SIZE)
    with arena.root("v01") as root:
        for name in NAMES:
            assert (root / "etc" / name).read_text() == f"content of {name}"
        assert os.readlink(root / "etc/climbs") == "../../../../etc/shadow"
        (root / "etc" / NAMES[0]).write_text("mine")
        (root / "etc" / NAMES[1]).unlink()
        (root / "etc/new").write_text("mine")
    arena.storage.create("v03", IMAGE, SIZE)
    for volume in ("v02", "v03"):
        with arena.root(volume) as root:
            assert (root / "etc" / NAMES[0]).read_text() == f"content of {NAMES[0]}"
            assert (root / "etc" / NAMES[1]).exists()
            assert not (root / "etc/new").exists()
    with arena.root("v01") as root:
        assert (root / "etc/new").read_text() == "mine"


@pytest.mark.promise("quota", "a volume holds what its size says, and no more; without the capability none is shown")
def test_quota(arena: StorageArena) -> None:
    arena.storage.create("v01", IMAGE, 16 * MIB)
    if not arena.storage.capabilities.quota:
        assert arena.storage.usage("v01").limit is None
        return
    assert arena.storage.usage("v01").limit == pytest.approx(16 * MIB, rel=0.3)
    written = arena.write("v01", 40 * MIB)
    assert 8 * MIB <= written <= 17 * MIB, f"{written} bytes went into a volume of {16 * MIB}"
    assert arena.storage.usage("v01").used >= written // 2


@pytest.mark.promise("resize", "a size below what is in use is refused and changes nothing; a larger one holds at once")
def test_resize(arena: StorageArena) -> None:
    if not arena.storage.capabilities.live_resize:
        pytest.skip("the driver cannot resize")
    arena.storage.create("v01", IMAGE, 16 * MIB)
    assert arena.write("v01", 6 * MIB) == 6 * MIB
    before = arena.storage.usage("v01").limit
    with pytest.raises(Conflict) as raised:
        arena.storage.resize("v01", 4 * MIB)
    assert raised.value.hint
    assert arena.storage.usage("v01").limit == before
    arena.storage.resize("v01", 48 * MIB)
    limit = arena.storage.usage("v01").limit
    assert limit is not None and before is not None and limit > 2 * before
    assert arena.write("v01", 24 * MIB) == 24 * MIB


@pytest.mark.promise("sizes", "a size that no disk has is taken or refused in words, and leaves nothing half-made")
def test_strange_sizes(arena: StorageArena) -> None:
    for number, size in enumerate((0, 1, 4095, 2**60, 2**63 - 1)):
        before = arena.inventory()
        try:
            arena.storage.create(f"v0{number}", IMAGE, size)
        except HostlerError as error:
            assert error.message
            assert arena.inventory() == before, size
        arena.storage.delete(f"v0{number}")
        assert arena.inventory() == before, size


@pytest.mark.promise("full", "a full pool is told as NoRoom with a hint; what was there stays, and room comes back by removing")
def test_full_pool(arena: StorageArena) -> None:
    total = arena.storage.free()[1]
    if total > GIB:
        pytest.skip("the pool is too large to be filled: give the driver a small one")
    images: list[str] = []
    with pytest.raises(NoRoom) as raised:
        for number in range(12):
            arena.storage.add_image(f"fu11{number:x}", Fill(total // 6))
            images.append(f"fu11{number:x}")
    assert raised.value.hint
    assert images, "the pool was full with nothing in it"
    assert not arena.storage.has_image(f"fu11{len(images):x}")
    assert {owner for _, owner in arena.inventory()} >= {IMAGE, *images}
    assert f"fu11{len(images):x}" not in {owner for _, owner in arena.inventory()}
    for image in images:
        arena.storage.remove_image(image)
    deadline = time.monotonic() + 15
    while arena.storage.free()[0] < total // 2 and time.monotonic() < deadline:
        time.sleep(0.1)  # a file system may free in the background
    arena.storage.add_image("fu11f", Fill(total // 6))
    arena.storage.create("v01", IMAGE, SIZE)


@pytest.mark.promise("empty", "an empty pool answers every question, and an image without a file is one")
def test_empty_pool(arena: StorageArena) -> None:
    storage = arena.storage
    storage.remove_image(IMAGE)
    assert not storage.has_image(IMAGE)
    assert IMAGE not in {owner for _, owner in arena.inventory()}
    with pytest.raises(NotFound):
        storage.create("v01", IMAGE, SIZE)
    free, total = storage.free()
    assert 0 < free <= total
    storage.add_image("e0e0", lambda folder: None)
    storage.create("v01", "e0e0", SIZE)
    assert storage.usage("v01").used < SIZE
    with arena.root("v01") as root:
        assert os.listdir(root) == []
        (root / "first").write_text("here")
    if storage.capabilities.snapshot:
        storage.snapshot("v01", "s1")
        storage.rollback("v01", "s1")
    with arena.root("v01") as root:
        assert os.listdir(root) == ["first"]
    storage.delete("v01")
    storage.remove_image("e0e0")


@pytest.mark.promise("free", "free tells bytes free and in all, and the first is never above the second")
def test_free(arena: StorageArena) -> None:
    free, total = arena.storage.free()
    assert 0 <= free <= total and total > 0


@pytest.mark.promise("snapshots", "a snapshot keeps the files of its instant: rolled back to, cloned, listed in order")
def test_snapshots(arena: StorageArena) -> None:
    if not arena.storage.capabilities.snapshot:
        pytest.skip("the driver cannot make snapshots")
    arena.storage.create("v01", IMAGE, SIZE)
    for step in ("s1", "s2"):
        with arena.root("v01") as root:
            (root / "etc/state").write_text(step)
        assert arena.storage.snapshot("v01", step).id == step
    with arena.root("v01") as root:
        (root / "etc/state").write_text("now")
    assert [one.id for one in arena.storage.snapshots("v01")] == ["s1", "s2"]
    arena.storage.clone("v01", "s1", "v02", SIZE)
    arena.storage.rollback("v01", "s2")
    for volume, text in (("v01", "s2"), ("v02", "s1")):
        with arena.root(volume) as root:
            assert (root / "etc/state").read_text() == text
    arena.storage.delete_snapshot("v01", "s1")
    assert [one.id for one in arena.storage.snapshots("v01")] == ["s2"]
    for volume in ("v02", "v01"):
        arena.storage.delete(volume)


@pytest.mark.promise("streams", "a sent snapshot arrives whole; a cut or changed stream is refused and leaves nothing")
def test_streams(arena: StorageArena) -> None:
    if not arena.storage.capabilities.send:
        pytest.skip("the driver cannot send")
    arena.storage.create("v01", IMAGE, SIZE)
    with arena.root("v01") as root:
        (root / "etc/state").write_text("first")
    arena.storage.snapshot("v01", "s1")
    whole = io.BytesIO()
    arena.storage.send("v01", "s1", whole)
    sent, before = whole.getvalue(), arena.inventory()
    for broken in (sent[: len(sent) // 2], sent[:-1], sent[: len(sent) // 2] + bytes([sent[len(sent) // 2] ^ 1]) + sent[len(sent) // 2 + 1 :], b""):
        with pytest.raises(Invalid):
            arena.storage.receive("v02", "s1", io.BytesIO(broken), SIZE)
        assert arena.inventory() == before
    arena.storage.receive("v02", "s1", io.BytesIO(sent), SIZE)
    if arena.storage.capabilities.send_delta:
        with arena.root("v01") as root:
            (root / "etc/state").write_text("second")
        arena.storage.snapshot("v01", "s2")
        change = io.BytesIO()
        arena.storage.send("v01", "s2", change, since="s1")
        with pytest.raises((Invalid, NotFound)):
            arena.storage.receive("v03", "s2", io.BytesIO(change.getvalue()), SIZE)
        arena.storage.receive("v02", "s2", io.BytesIO(change.getvalue()), SIZE)
        assert [one.id for one in arena.storage.snapshots("v02")] == ["s1", "s2"]
    with arena.root("v02") as root, arena.root("v01") as origin:
        assert (root / "etc/state").read_text() == (origin / "etc/state").read_text()
        assert sorted(os.listdir(root / "etc")) == sorted(os.listdir(origin / "etc"))
    for volume in ("v01", "v02"):
        arena.storage.delete(volume)
