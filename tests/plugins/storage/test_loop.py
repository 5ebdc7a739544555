"""What only the loop driver does: file systems in files, their mounts and sizes, snapshots and streams of disks."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.contracts.storage import IdmapMount
from hostler.core.errors import Conflict, HostlerError, Invalid, NoRoom, NotFound
from hostler.core.units import MIB
from hostler.host import ext4, loop, mounts
from hostler_plugins.storage.loop import Loop
from hostler_plugins.storage.loop_parts import copy_disk
from tests.plugins.storage.conftest import MakeLoop
from tests.plugins.storage.content import IMAGE, fill, write
from tests.plugins.storage.streams import envelope, resealed
from tests.plugins.storage.test_btrfs_snapshots import change, tree

pytestmark = pytest.mark.lab


@pytest.fixture(params=[False, True], ids=["disk", "btrfs"])
def driver(request: pytest.FixtureRequest, make_loop: MakeLoop) -> Loop:
    """With one image; on the disk's file system, and on one that shares blocks."""
    made = make_loop(on_btrfs=request.param)
    made.add_image(IMAGE, fill)
    return made


@pytest.fixture
def disk(make_loop: MakeLoop) -> Loop:
    """On the disk's file system alone."""
    made = make_loop()
    made.add_image(IMAGE, fill)
    return made


def root_of(driver: Loop, volume: str) -> Path:
    """Where the volume is mounted."""
    mount = driver.root_plan(volume).mounts[0]
    assert isinstance(mount, IdmapMount)
    return mount.source


def names(driver: Loop) -> set[str]:
    """All that the driver says that it has."""
    return {f"{item.kind} {item.name}" for item in driver.inventory()}


def content(driver: Loop, volume: str) -> object:
    """All files of a volume, which is let go again."""
    found = tree(root_of(driver, volume))
    driver.detach(volume)
    return found


def sent(driver: Loop, snapshot: str, *, since: str | None = None) -> bytes:
    """A snapshot of v1 as a stream."""
    out = io.BytesIO()
    driver.send("v1", snapshot, out, since=since)
    return out.getvalue()


def test_the_size_stops_a_writer_and_does_not_count_the_image(disk: Loop) -> None:
    def large(folder: Path) -> None:
        write(folder / "large", 60 * MIB)

    disk.add_image("f" * 16, large)
    disk.create("v1", "f" * 16, 20 * MIB)
    root = root_of(disk, "v1")
    assert (root / "large").stat().st_size == 60 * MIB
    assert disk.usage("v1").used < MIB
    assert disk.usage("v1").inodes
    written = write(root / "mine", 100 * MIB)
    assert abs(written - 20 * MIB) < 3 * MIB
    assert abs(disk.usage("v1").used - 20 * MIB) < 3 * MIB
    with pytest.raises(OSError, match="No space left"):
        (root / "more").write_bytes(os.urandom(4 * MIB))
    mounted = disk.usage("v1")
    disk.detach("v1")
    assert abs(disk.usage("v1").used - mounted.used) < 64 * 1024
    assert disk.usage("v1").inodes == mounted.inodes
    assert disk.usage("v1").limit == 20 * MIB


def test_mounts_and_devices_come_with_root_plan_and_go_with_detach_and_delete(driver: Loop) -> None:
    before = names(driver)
    driver.create("v1", IMAGE, 16 * MIB)
    made = names(driver)
    root = root_of(driver, "v1")
    assert root_of(driver, "v1") == root
    assert len(mounts.mounts_below(root)) == 1
    assert not (root / "lost+found").exists()
    assert names(driver) - made == {"mount volumes/v1/mount"}
    file = root.parent / "disk"
    assert loop.device_of(file) is not None
    for _ in range(2):
        driver.detach("v1")
    assert loop.device_of(file) is None
    assert names(driver) == made
    driver.detach("never-was")
    root_of(driver, "v1")
    driver.delete("v1")
    assert names(driver) == before
    assert not loop.attached_below(driver._layout.base.resolve())


def test_a_device_that_only_a_container_holds_is_in_the_inventory(disk: Loop) -> None:
    disk.create("v1", IMAGE, 16 * MIB)
    with in_container(disk, "v1"):
        disk.detach("v1")
        assert [item.owner for item in disk.inventory() if item.kind == "loop"] == ["v1"]
        with pytest.raises(Conflict, match="in use"):
            disk.check("v1")
    disk.delete("v1")


class in_container:
    """A volume mounted in another mount namespace, the host's own mount left out of it, as a container's is."""

    def __init__(self, driver: Loop, volume: str) -> None:
        target = driver.host.state_dir / "target"
        target.mkdir(exist_ok=True)
        script = 'mount --bind "$0" "$1" && umount "$0" && cd "$1" && echo ready && exec sleep 60'
        words = ["unshare", "-m", "sh", "-c", script, str(root_of(driver, volume)), str(target)]
        self._child = subprocess.Popen(words, stdout=subprocess.PIPE)

    def __enter__(self) -> None:
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == b"ready\n"

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate(timeout=10)


def test_a_stopped_volume_grows_and_shrinks_and_keeps_its_files(driver: Loop) -> None:
    driver.create("v1", IMAGE, 16 * MIB)
    write(root_of(driver, "v1") / "f", 10 * MIB)
    kept = content(driver, "v1")
    driver.resize("v1", 48 * MIB)
    assert content(driver, "v1") == kept
    assert write(root_of(driver, "v1") / "g", 100 * MIB) > 34 * MIB
    (root_of(driver, "v1") / "g").unlink()
    kept = content(driver, "v1")
    with pytest.raises(Conflict) as caught:
        driver.resize("v1", 8 * MIB)
    assert caught.value.hint
    assert driver.usage("v1").limit == 48 * MIB
    driver.resize("v1", 20 * MIB)
    assert content(driver, "v1") == kept
    assert write(root_of(driver, "v1") / "g", 100 * MIB) < 13 * MIB
    assert driver.usage("v1").limit == 20 * MIB
    assert ext4.check(_released(driver, "v1")) == []


def _released(driver: Loop, volume: str) -> Path:
    driver.detach(volume)
    return driver._layout.volume(volume) / "disk"


def test_a_volume_in_use_grows_where_it_can_and_never_shrinks(disk: Loop) -> None:
    disk.create("v1", IMAGE, 16 * MIB)
    with in_container(disk, "v1"):
        with pytest.raises(Conflict, match="in use"):
            disk.resize("v1", 12 * MIB)
        if disk.capabilities.live_resize:
            disk.resize("v1", 64 * MIB)
            assert write(root_of(disk, "v1") / "g", 100 * MIB) > 50 * MIB
        else:
            assert any("CAP_SYS_RESOURCE" in lack.what for lack in disk.probe().lacks)
            with pytest.raises(Conflict, match="in use"):
                disk.resize("v1", 64 * MIB)
            assert disk.usage("v1").limit == 16 * MIB
    disk.resize("v1", 64 * MIB)
    assert write(root_of(disk, "v1") / "g", 100 * MIB) > 50 * MIB


def test_a_volume_without_a_limit_is_large_and_takes_little_room(disk: Loop) -> None:
    disk.create("v1", IMAGE, None)
    root = root_of(disk, "v1")
    found = os.statvfs(root)
    assert found.f_bavail * found.f_frsize > 60 << 30
    assert (root.parent / "disk").stat().st_blocks * 512 < 64 * MIB
    assert disk.usage("v1").limit is None
    assert disk.usage("v1").used < MIB


def test_snapshots_roll_back_and_clone_while_it_is_in_use(driver: Loop) -> None:
    driver.create("v1", IMAGE, 32 * MIB)
    root = root_of(driver, "v1")
    before = tree(root)
    first = driver.snapshot("v1", "s2")
    assert driver.snapshot("v1", "s2") == first
    change(root)
    (root / "unsynced").write_bytes(b"x" * 100_000)
    after = tree(root)
    second = driver.snapshot("v1", "s1")
    assert driver.snapshots("v1") == [first, second]
    (root / "goes on").write_text("after the snapshot")  # it is not left frozen
    with in_container(driver, "v1"), pytest.raises(Conflict, match="in use"):
        driver.rollback("v1", "s2")
    for _ in range(2):
        driver.rollback("v1", "s2")
        assert content(driver, "v1") == before
    driver.rollback("v1", "s1")
    assert content(driver, "v1") == after
    driver.clone("v1", "s2", "v2", 16 * MIB)
    driver.clone("v1", "s2", "v2", 16 * MIB)
    assert content(driver, "v2") == before
    assert driver.usage("v2").limit == 16 * MIB
    driver.delete_snapshot("v1", "s2")
    driver.delete_snapshot("v1", "s2")
    assert driver.snapshots("v1") == [second]
    with pytest.raises(NotFound):
        driver.rollback("v1", "s2")
    driver.delete("v1")
    driver.delete("v2")
    assert names(driver) == {f"disk images/{IMAGE}"}


def test_snapshots_may_hold_so_much_and_no_more(disk: Loop) -> None:
    disk.create("v1", IMAGE, 16 * MIB)
    write(root_of(disk, "v1") / "f", 14 * MIB)
    for number in range(3):
        disk.snapshot("v1", f"s{number}")
    with pytest.raises(NoRoom) as caught:
        disk.snapshot("v1", "s4")
    assert caught.value.hint
    disk.delete_snapshot("v1", "s0")
    disk.snapshot("v1", "s4")
    with pytest.raises(Conflict):
        disk.clone("v1", "s4", "v2", 8 * MIB)


def test_streams_make_the_same_volume_elsewhere(driver: Loop, make_loop: MakeLoop) -> None:
    driver.create("v1", IMAGE, 32 * MIB)
    driver.snapshot("v1", "s1")
    root = root_of(driver, "v1")
    at_first = tree(root)
    change(root)
    then = tree(root)
    taken = driver.snapshot("v1", "s2")
    other = make_loop()
    other.receive("v1", "s1", io.BytesIO(sent(driver, "s1")), 32 * MIB)
    assert content(other, "v1") == at_first
    difference = sent(driver, "s2", since="s1")
    assert len(difference) < 3 * MIB
    for _ in range(2):
        other.receive("v1", "s2", io.BytesIO(difference), 40 * MIB)
        assert content(other, "v1") == then
        assert other.usage("v1").limit == 40 * MIB
    assert other.snapshots("v1")[1] == taken
    assert other.check("v1") == []
    write(root_of(other, "v1") / "g", 2 * MIB)
    there = tree(root_of(other, "v1"))
    other.snapshot("v1", "s3")
    driver.detach("v1")
    driver.receive("v1", "s3", io.BytesIO(sent(other, "s3", since="s2")), 32 * MIB)  # and back
    assert content(driver, "v1") == there


def spoilt(data: bytes) -> Iterator[bytes]:
    """Cut, flipped and senseless streams."""
    chance = random.Random(7)
    for end in (0, 17, 100, len(data) // 2, len(data) - 33, len(data) - 1):
        yield data[:end]
    for _ in range(5):
        at = chance.randrange(len(data))
        yield data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    yield resealed(data[: len(data) // 2] + data[len(data) // 2 + 1 :])


def test_spoilt_and_foreign_streams_leave_everything_as_it_was(disk: Loop, make_loop: MakeLoop) -> None:
    disk.create("v1", IMAGE, 32 * MIB)
    disk.snapshot("v1", "s1")
    other = make_loop()
    for bad in spoilt(sent(disk, "s1")):
        with pytest.raises(Invalid):
            other.receive("v1", "s1", io.BytesIO(bad), 32 * MIB)
        assert names(other) == set()
    other.receive("v1", "s1", io.BytesIO(sent(disk, "s1")), 32 * MIB)
    (root_of(other, "v1") / "own").write_text("kept")
    before, had = content(other, "v1"), names(other)
    change(root_of(disk, "v1"))
    disk.snapshot("v1", "s2")
    disk.snapshot("v1", "s3")
    for bad in [*spoilt(sent(disk, "s2", since="s1")), sent(disk, "s3", since="s2"), envelope(b"", size=MIB)]:
        with pytest.raises(Invalid):
            other.receive("v1", "s2", io.BytesIO(bad), 32 * MIB)
        assert content(other, "v1") == before
        assert names(other) == had
    with pytest.raises(Conflict):
        other.receive("v1", "s2", io.BytesIO(sent(disk, "s2")), 32 * MIB)
    with pytest.raises(NotFound):
        other.receive("v2", "s2", io.BytesIO(sent(disk, "s2", since="s1")), 32 * MIB)
    with in_container(other, "v1"), pytest.raises(Conflict):
        other.receive("v1", "s2", io.BytesIO(sent(disk, "s2", since="s1")), 32 * MIB)
    assert content(other, "v1") == before


def piece(kind: bytes, start: int, data: bytes, length: int | None = None) -> bytes:
    """One piece of a disk."""
    return struct.pack("<cQQ", kind, start, len(data) if length is None else length) + data


END = piece(b"E", 0, b"")
HOSTILE = {
    "no file system": (piece(b"D", 0, b"x" * 4096) + END, MIB),
    "empty": (END, MIB),
    "past the end": (piece(b"D", MIB - 1, b"xx") + END, MIB),
    "far past the end": (piece(b"D", 2**64 - 1, b"x") + END, MIB),
    "backwards": (piece(b"D", 4096, b"x") + piece(b"D", 0, b"x") + END, MIB),
    "too long": (piece(b"Z", 0, b"", 2**63) + END, 2**62),
    "nothing": (piece(b"D", 0, b"") + END, MIB),
    "unknown": (piece(b"X", 0, b"x") + END, MIB),
    "odd size": (END, MIB + 1),
    "no size": (END, 0),
    "huge": (END, 2**50),
    "more after the end": (END + b"x", MIB),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_disks_are_refused(disk: Loop, name: str) -> None:
    payload, size = HOSTILE[name]
    had = names(disk)
    with pytest.raises((Invalid, NoRoom)):
        disk.receive("v1", "s1", io.BytesIO(envelope(payload, driver="loop", size=size)), 16 * MIB)
    assert names(disk) == had


def test_a_broken_file_system_is_refused(disk: Loop, make_loop: MakeLoop) -> None:
    disk.create("v1", IMAGE, 16 * MIB)
    disk.snapshot("v1", "s1")
    file = disk._layout.snapshot("v1", "s1") / "disk"
    with file.open("r+b") as out:
        out.seek(4096)
        out.write(os.urandom(64 * 1024))  # group descriptors, bitmaps, inodes
    other = make_loop()
    with pytest.raises(Invalid, match="e2fsck"):
        other.receive("v1", "s1", io.BytesIO(sent(disk, "s1")), 16 * MIB)
    assert names(other) == set()


def test_the_size_holds_while_receiving(disk: Loop, make_loop: MakeLoop) -> None:
    disk.create("v1", IMAGE, 200 * MIB)
    disk.snapshot("v1", "s1")
    with pytest.raises(NoRoom):
        make_loop().receive("v1", "s1", io.BytesIO(sent(disk, "s1")), 16 * MIB)


_KILLED = """
import json, sys, time
from pathlib import Path
from hostler.contracts.driver import Host
from hostler.host import ext4
from hostler_plugins.storage import loop_snapshots
from hostler_plugins.storage.loop import Loop
from hostler_plugins.storage.loop_parts import copy_disk
state, settings, what = sys.argv[1:]
driver = Loop(Host(installation="test", node="alpha", state_dir=Path(state), libexec=Path(state), settings=json.loads(settings)))
def stuck(*_):
    print("ready", flush=True)
    time.sleep(60)
loop_snapshots.copy_disk = stuck
{"snapshot": lambda: driver.snapshot("v1", "s9"), "rollback": lambda: driver.rollback("v1", "s1")}[what]()
"""


@pytest.mark.parametrize("what", ["snapshot", "rollback"])
def test_a_process_killed_in_the_middle_leaves_what_setup_mends(disk: Loop, what: str) -> None:
    disk.create("v1", IMAGE, 16 * MIB)
    disk.snapshot("v1", "s1")
    root = root_of(disk, "v1")
    before, had = tree(root), names(disk)
    words = [sys.executable, "-c", _KILLED, str(disk.host.state_dir), json.dumps(disk.host.settings), what]
    child = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        disk.setup()  # what is being made is left alone
        assert any(item.kind == "draft" for item in disk.inventory())
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=10)
        disk.setup()  # thaws, too
    assert names(disk) == had
    (root / "writable").write_text("again")
    (root / "writable").unlink()
    assert set(tree(root)) == set(before)


def test_check_mends_what_a_crash_leaves_and_says_what_it_cannot(disk: Loop) -> None:
    disk.create("v1", IMAGE, 16 * MIB)
    root, file = root_of(disk, "v1"), disk._layout.volume("v1") / "disk"
    change(root)
    os.sync()
    (root / "last").write_text("lost or not")
    copy_disk(file, file.with_name("crashed"))  # while it is mounted and its journal not played back: a power cut
    disk.detach("v1")
    file.with_name("crashed").replace(file)
    assert disk.check("v1") == []
    assert disk.check("v1") == []
    assert (root_of(disk, "v1") / "new/deep/file").stat().st_size == 300_000
    disk.detach("v1")
    with file.open("r+b") as out:
        out.write(bytes(64 * 1024))
    assert "e2fsck" in disk.check("v1")[0]
    with pytest.raises(HostlerError):
        root_of(disk, "v1")
    assert not loop.attached_below(disk._layout.base.resolve())
    with pytest.raises(NotFound):
        disk.check("v2")


def test_create_is_quick(driver: Loop) -> None:
    took = []
    for number in range(10):
        began = time.perf_counter()
        driver.create(f"v{number}", IMAGE, 64 * MIB)
        took.append(time.perf_counter() - began)
    print(f"create {sorted(took)[5] * 1000:.1f} ms")
    assert sorted(took)[5] < 1
