"""What every storage driver does, on each of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hostler.contracts.storage import IdmapMount, Storage
from hostler.core.errors import Conflict, Invalid, NoRoom, NotFound
from hostler.core.units import MIB
from tests.plugins.storage.content import IMAGE, fill

pytestmark = pytest.mark.lab

OTHER = "fedcba9876543210"
HOSTILE = ["", ".", "..", "../x", "a/b", "/etc", ".draft-a", "a\0b", "a\n", "A", "-a", "ä", "a" * 64, "a b", "x/../../y"]


def image_folder(storage: Storage) -> Path:
    """The unpacked image, or a volume that was just made from it."""
    storage.create("looker", IMAGE, None)
    mount = storage.root_plan("looker").mounts[0]
    assert isinstance(mount, IdmapMount)
    return mount.source


def names(storage: Storage) -> set[str]:
    """What the driver says that it has, but for its pool."""
    return {item.name for item in storage.inventory() if item.kind != "pool"}


def test_probe_is_usable_and_changes_nothing(storage: Storage) -> None:
    before = names(storage)
    began = time.monotonic()
    probe = storage.probe()
    assert time.monotonic() - began < 1
    assert probe.usable
    assert probe.offers
    assert names(storage) == before


def test_an_image_keeps_names_links_and_hard_links(storage: Storage) -> None:
    folder = image_folder(storage)
    assert (folder / "etc/ünïcode-名前").read_text() == "grüße"
    assert os.readlink(folder / "etc/hosts") == "../../../../etc/shadow"
    assert (folder / "bin/one").stat().st_nlink == 2
    assert folder.stat().st_mode & 0o7777 == 0o755


def test_an_image_is_added_once_by_many_callers(storage: Storage) -> None:
    calls: list[Path] = []

    def slow(folder: Path) -> None:
        calls.append(folder)
        time.sleep(0.2)
        (folder / "done").touch()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(storage.add_image, OTHER, slow) for _ in range(8)]:
            future.result(timeout=30)
    assert len(calls) == 1
    assert storage.has_image(OTHER)


@pytest.mark.parametrize("error", [ValueError("bad archive"), OSError(5, "a read error"), KeyboardInterrupt()])
def test_an_error_of_fill_is_passed_on_and_leaves_nothing(storage: Storage, error: BaseException) -> None:
    def failing(folder: Path) -> None:
        (folder / "half").write_bytes(b"x" * MIB)
        raise error

    before = names(storage)
    with pytest.raises(type(error)) as caught:
        storage.add_image(OTHER, failing)
    assert caught.value is error
    assert not storage.has_image(OTHER)
    assert names(storage) == before
    storage.add_image(OTHER, fill)
    assert storage.has_image(OTHER)


def test_a_full_disk_in_fill_is_no_room(storage: Storage) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(NoRoom) as caught:
        storage.add_image(OTHER, full)
    assert caught.value.hint
    assert OTHER not in str(names(storage))


_KILLED = """
import json, sys, time
from pathlib import Path
from hostler.contracts.driver import Host
from hostler_plugins.storage.btrfs import Btrfs
from hostler_plugins.storage.loop import Loop
from hostler_plugins.storage.overlay import Overlay
def fill(folder):
    (folder / "half").write_bytes(b"x" * 100000)
    print("filling", flush=True)
    time.sleep(60)
kind, state, settings, image = sys.argv[1:]
host = Host(installation="test", node="alpha", state_dir=Path(state), libexec=Path(state), settings=json.loads(settings))
{"btrfs": Btrfs, "overlay": Overlay, "loop": Loop}[kind](host).add_image(image, fill)
"""


def _killed_in_fill(storage: Storage) -> None:
    words = [sys.executable, "-c", _KILLED, storage.name, str(storage.host.state_dir), json.dumps(storage.host.settings), OTHER]
    child = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"filling\n"
        assert any(item.kind == "draft" and item.owner == OTHER for item in storage.inventory())
        storage.setup()  # a worker that starts meanwhile leaves a live draft alone
        assert any(item.kind == "draft" and item.owner == OTHER for item in storage.inventory())
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=10)
    assert not storage.has_image(OTHER)


def test_a_process_killed_in_fill_leaves_a_draft_that_setup_removes(storage: Storage) -> None:
    _killed_in_fill(storage)
    storage.setup()
    assert OTHER not in str(names(storage))


def test_a_process_killed_in_fill_leaves_a_draft_that_the_next_add_replaces(storage: Storage) -> None:
    _killed_in_fill(storage)
    storage.add_image(OTHER, lambda folder: (folder / "whole").touch())
    assert storage.has_image(OTHER)
    assert {item.kind for item in storage.inventory() if item.owner == OTHER}.isdisjoint({"draft"})


def test_create_is_idempotent_and_delete_too(storage: Storage) -> None:
    storage.create("v1", IMAGE, 16 * MIB)
    storage.create("v1", IMAGE, 32 * MIB)
    expected = 32 * MIB if storage.capabilities.quota else None
    assert storage.usage("v1").limit == expected
    storage.delete("v1")
    storage.delete("v1")
    with pytest.raises(NotFound):
        storage.usage("v1")
    with pytest.raises(NotFound):
        storage.resize("v1", None)


def test_create_without_the_image_leaves_nothing(storage: Storage) -> None:
    before = names(storage)
    with pytest.raises(NotFound):
        storage.create("v1", OTHER, 16 * MIB)
    assert names(storage) == before


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_everywhere(storage: Storage, name: str) -> None:
    before = names(storage)
    for call in (
        lambda: storage.create(name, IMAGE, None),
        lambda: storage.create("v1", name, None),
        lambda: storage.delete(name),
        lambda: storage.resize(name, None),
        lambda: storage.usage(name),
        lambda: storage.root_plan(name),
        lambda: storage.has_image(name),
        lambda: storage.add_image(name, fill),
        lambda: storage.remove_image(name),
    ):
        with pytest.raises(Invalid):
            call()
    assert names(storage) == before


def test_inventory_tells_owners(storage: Storage) -> None:
    storage.create("v1", IMAGE, None)
    storage.create("v2", IMAGE, None)
    owners = {item.owner for item in storage.inventory() if item.kind != "pool"}
    assert owners == {IMAGE, "v1", "v2"}


def test_another_node_on_the_same_pool_is_not_met(storage: Storage, tmp_path: Path) -> None:
    host = storage.host
    pool = next(iter(host.settings.values()), {}).get("pool") or str(host.state_dir / f"storage/{storage.name}/pool")
    settings = {f"storage:{storage.name}": {"pool": pool}}
    other = type(storage)(type(host)(installation="test", node="beta", state_dir=tmp_path / "beta", libexec=tmp_path, settings=settings))
    other.setup()
    storage.create("v1", IMAGE, None)
    assert other.inventory() == []
    other.add_image(IMAGE, fill)
    other.create("v1", IMAGE, None)
    other.delete("v1")
    assert storage.usage("v1").used >= 0
    other.teardown()
    assert storage.has_image(IMAGE)


def test_eight_threads_on_the_same_volume_and_on_different_ones(storage: Storage) -> None:
    gate = threading.Barrier(8)

    def work(number: int) -> None:
        gate.wait(timeout=10)
        for turn in range(10):
            storage.create("shared", IMAGE, 16 * MIB)
            storage.create(f"own-{number}", IMAGE, (16 + turn) * MIB)
            storage.usage(f"own-{number}")
            storage.delete("shared")
            storage.delete(f"own-{number}")

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, number) for number in range(8)]:
            future.result(timeout=60)
    assert names(storage) == {f"images/{IMAGE}"}


def test_teardown_is_refused_while_there_are_volumes_and_removes_all(storage: Storage) -> None:
    storage.create("v1", IMAGE, None)
    with pytest.raises(Conflict):
        storage.teardown()
    storage.delete("v1")
    storage.teardown()
    storage.teardown()
    assert storage.inventory() == []
    left = [path for path in storage.host.state_dir.rglob("*") if path.is_file()]
    assert left == []


def test_verbs_on_a_driver_that_was_never_set_up(storage: Storage, tmp_path: Path) -> None:
    storage.teardown()
    assert storage.inventory() == []
    storage.delete("v1")
    storage.remove_image(IMAGE)
    assert not storage.has_image(IMAGE)
    with pytest.raises(NotFound):
        storage.create("v1", IMAGE, None)


def test_free_tells_free_and_total(storage: Storage) -> None:
    free, total = storage.free()
    assert 0 < free <= total
