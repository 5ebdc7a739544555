"""Snapshots and streams of btrfs volumes, on real pools."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostler.contracts.storage import IdmapMount
from hostler.core.errors import Conflict, HostlerError, Invalid, NoRoom, NotFound, Unsupported
from hostler.core.units import MIB
from hostler.host import btrfs, qgroups
from hostler.host.qgroups import Mode
from hostler_plugins.storage.btrfs import Btrfs
from hostler_plugins.storage.sendstream import Kind
from tests.plugins.storage.conftest import MakeBtrfs
from tests.plugins.storage.content import IMAGE, fill, write
from tests.plugins.storage.streams import OWN, btrfs_stream, command, envelope, number, resealed

pytestmark = pytest.mark.lab


def root_of(driver: Btrfs, volume: str) -> Path:
    """The volume's own folder."""
    mount = driver.root_plan(volume).mounts[0]
    assert isinstance(mount, IdmapMount)
    return mount.source


def sync(driver: Btrfs) -> None:
    """Bring the counters up to date."""
    with btrfs.opened(driver._pool) as pool:
        btrfs.sync(pool)
        btrfs.commit(pool)


def names(driver: Btrfs) -> set[str]:
    """What the driver says that it has, but for its pool."""
    return {item.name for item in driver.inventory() if item.kind != "pool"}


def sent(driver: Btrfs, snapshot: str, *, since: str | None = None, volume: str = "v1") -> bytes:
    """A snapshot as a stream."""
    out = io.BytesIO()
    driver.send(volume, snapshot, out, since=since)
    return out.getvalue()


def tree(folder: Path) -> dict[str, tuple[int, int, int, bytes, dict[str, bytes]]]:
    """All that is to be the same on another server."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        at = path.lstat()
        data = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("trusted.")}
        found[str(path.relative_to(folder))] = (at.st_mode, at.st_uid, at.st_mtime_ns, data, xattrs)
    return found


def change(root: Path) -> None:
    """What a tenant may do: every kind of file, a rename, a hole, a removed name."""
    (root / "new/deep").mkdir(parents=True)
    (root / "new/deep/file").write_bytes(os.urandom(300_000))
    os.link(root / "new/deep/file", root / "new/again")
    (root / "new/link").symlink_to("/etc/passwd")
    os.mkfifo(root / "new/fifo")
    os.mknod(root / "new/socket", stat.S_IFSOCK | 0o644)
    os.mknod(root / "new/whiteout", stat.S_IFCHR)
    with (root / "new/sparse").open("wb") as out:
        out.seek(5 * MIB)
        out.write(b"end")
    (root / "bin/one").rename(root / "bin/uno")
    (root / "etc/ünïcode-名前").unlink()
    os.setxattr(root / "new/deep/file", "user.note", b"kept")
    os.chown(root / "new/deep/file", 1000, 65535)
    (root / "new/deep/file").chmod(0o4755)


def test_snapshots_are_listed_kept_and_deleted(pool: Btrfs) -> None:
    assert pool.capabilities.snapshot
    pool.create("v1", IMAGE, 64 * MIB)
    first = pool.snapshot("v1", "s2")
    assert pool.snapshot("v1", "s2") == first
    (root_of(pool, "v1") / "later").touch()
    second = pool.snapshot("v1", "s1")
    assert pool.snapshots("v1") == [first, second]
    assert {"snapshots/v1/s1", "snapshots/v1/s2"} < names(pool)
    pool.delete_snapshot("v1", "s2")
    pool.delete_snapshot("v1", "s2")
    assert pool.snapshots("v1") == [second]
    pool.delete("v1")
    assert names(pool) == {f"images/{IMAGE}"}
    with pytest.raises(NotFound):
        pool.snapshots("v1")
    with pytest.raises(NotFound):
        pool.snapshot("v1", "s1")


def test_what_only_a_snapshot_holds_counts_for_its_volume(pool: Btrfs) -> None:
    pool.create("v1", IMAGE, 32 * MIB)
    file = root_of(pool, "v1") / "f"
    assert write(file, 20 * MIB) == 20 * MIB
    pool.snapshot("v1", "s1")
    file.unlink()
    sync(pool)
    assert pool.usage("v1").used > 20 * MIB
    assert write(file, 64 * MIB) < 13 * MIB
    with pytest.raises(Conflict):
        pool.resize("v1", 16 * MIB)
    pool.rollback("v1", "s1")  # the volume is full: it can be rolled back all the same
    assert pool.usage("v1").limit == 32 * MIB
    assert file.stat().st_size == 20 * MIB
    sync(pool)
    pool.setup()  # what cleans must not set the bytes of the volume before free, which the snapshot holds
    assert pool.usage("v1").used > 20 * MIB
    assert write(file.with_name("g"), 64 * MIB) < 13 * MIB


def test_rollback_brings_everything_back_and_keeps_the_snapshots(pool: Btrfs) -> None:
    pool.create("v1", IMAGE, 64 * MIB)
    before = tree(root_of(pool, "v1"))
    pool.snapshot("v1", "s1")
    change(root_of(pool, "v1"))
    after = tree(root_of(pool, "v1"))
    pool.snapshot("v1", "s2")
    for _ in range(2):
        pool.rollback("v1", "s1")
        assert tree(root_of(pool, "v1")) == before
    pool.rollback("v1", "s2")
    assert tree(root_of(pool, "v1")) == after
    assert [one.id for one in pool.snapshots("v1")] == ["s1", "s2"]
    assert pool.usage("v1").limit == 64 * MIB
    with pytest.raises(NotFound):
        pool.rollback("v1", "s3")
    assert not [item for item in pool.inventory() if item.kind == "draft"]


@pytest.fixture
def mounted(pool: Btrfs) -> Iterator[None]:
    """Volume v1 mounted in another mount namespace, as a container's is."""
    pool.create("v1", IMAGE, 64 * MIB)
    target = pool.host.state_dir / "target"
    target.mkdir()
    script = 'mount --bind "$0" "$1" && cd "$1" && echo ready && exec sleep 60'
    child = subprocess.Popen(["unshare", "-m", "sh", "-c", script, str(root_of(pool, "v1")), str(target)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield
    finally:
        child.kill()
        child.communicate(timeout=10)


def test_a_volume_that_a_container_has_mounted_is_not_rolled_back(pool: Btrfs, mounted: None) -> None:
    pool.snapshot("v1", "s1")
    change(root_of(pool, "v1"))
    now = tree(root_of(pool, "v1"))
    with pytest.raises(Conflict, match="in use"):
        pool.rollback("v1", "s1")
    assert tree(root_of(pool, "v1")) == now


def test_a_clone_counts_what_it_took_over(pool: Btrfs) -> None:
    pool.create("v1", IMAGE, 64 * MIB)
    write(root_of(pool, "v1") / "f", 20 * MIB)
    sync(pool)
    pool.snapshot("v1", "s1")
    with pytest.raises(Conflict):
        pool.clone("v1", "s1", "v2", 16 * MIB)
    assert "volumes/v2" not in names(pool)
    pool.clone("v1", "s1", "v2", 32 * MIB)
    pool.clone("v1", "s1", "v2", 32 * MIB)
    assert tree(root_of(pool, "v2")) == tree(pool._layout.snapshot("v1", "s1"))
    used = pool.usage("v2")
    assert used.limit == 32 * MIB
    assert used.used > 20 * MIB
    pool.delete("v1")
    assert write(root_of(pool, "v2") / "g", 64 * MIB) < 13 * MIB
    pool.resize("v2", 48 * MIB)
    assert 14 * MIB < write(root_of(pool, "v2") / "g", 64 * MIB) < 30 * MIB
    pool.snapshot("v2", "s1")
    with pytest.raises(Conflict):  # nor can a chain of clones pile up files that nobody pays for
        pool.clone("v2", "s1", "v3", 32 * MIB)


def test_a_stream_makes_the_same_volume_on_another_server(pool: Btrfs, make_btrfs: MakeBtrfs) -> None:
    pool.create("v1", IMAGE, 64 * MIB)
    pool.snapshot("v1", "s1")
    change(root_of(pool, "v1"))
    taken = pool.snapshot("v1", "s2")
    other = make_btrfs()
    other.receive("v1", "s1", io.BytesIO(sent(pool, "s1")), 32 * MIB)
    assert tree(root_of(other, "v1")) == tree(pool._layout.snapshot("v1", "s1"))
    difference = sent(pool, "s2", since="s1")
    assert len(difference) < 7 * MIB
    for _ in range(2):
        other.receive("v1", "s2", io.BytesIO(difference), 48 * MIB)
        assert tree(root_of(other, "v1")) == tree(root_of(pool, "v1"))
        assert other.usage("v1").limit == 48 * MIB
    assert other.snapshots("v1")[1] == taken
    assert (root_of(other, "v1") / "new/again").stat().st_nlink == 2
    (root_of(other, "v1") / "mine").write_text("writable")
    other.receive("v1", "s1", io.BytesIO(sent(pool, "s1")), 32 * MIB)  # once more, as after a lost answer
    assert tree(root_of(other, "v1")) == tree(pool._layout.snapshot("v1", "s1"))
    other.delete("v1")
    assert names(other) == set()


def test_a_received_snapshot_can_be_sent_on(pool: Btrfs, make_btrfs: MakeBtrfs) -> None:
    pool.create("v1", IMAGE, 64 * MIB)
    pool.snapshot("v1", "s1")
    there = make_btrfs()
    there.receive("v1", "s1", io.BytesIO(sent(pool, "s1")), None)
    change(root_of(there, "v1"))
    there.snapshot("v1", "s2")
    pool.receive("v1", "s2", io.BytesIO(sent(there, "s2", since="s1")), 64 * MIB)  # and back, as a difference
    assert tree(root_of(pool, "v1")) == tree(root_of(there, "v1"))


def test_the_images_files_are_shared_and_not_charged_on_the_other_server(make_btrfs: MakeBtrfs) -> None:
    saved: dict[str, bytes] = {"large": os.urandom(40 * MIB), "odd": os.urandom(100_001)}

    def large(folder: Path) -> None:
        for name, data in saved.items():
            (folder / name).write_bytes(data)

    one, two = make_btrfs(), make_btrfs()
    for driver in (one, two):
        driver.add_image(IMAGE, large)
    one.create("v1", IMAGE, 16 * MIB)
    write(root_of(one, "v1") / "mine", 4 * MIB)
    with (root_of(one, "v1") / "large").open("r+b") as out:
        out.seek(MIB)
        out.write(b"x" * 5000)
    one.snapshot("v1", "s1")
    two.receive("v1", "s1", io.BytesIO(sent(one, "s1")), 16 * MIB)
    assert tree(root_of(two, "v1")) == tree(root_of(one, "v1"))
    sync(two)
    assert two.usage("v1").used < 6 * MIB
    assert (two._layout.image(IMAGE) / "large").read_bytes() == saved["large"]


def test_the_quota_holds_while_receiving(pool: Btrfs, make_btrfs: MakeBtrfs) -> None:
    pool.create("v1", IMAGE, 128 * MIB)
    write(root_of(pool, "v1") / "f", 60 * MIB)
    pool.snapshot("v1", "s1")
    other = make_btrfs()
    with pytest.raises(NoRoom):
        other.receive("v1", "s1", io.BytesIO(sent(pool, "s1")), 16 * MIB)
    assert names(other) == set()
    other.receive("v1", "s1", io.BytesIO(sent(pool, "s1")), 64 * MIB)


def test_a_full_volume_can_be_received(pool: Btrfs, make_btrfs: MakeBtrfs) -> None:
    pool.create("v1", IMAGE, 24 * MIB)
    pool.snapshot("v1", "s1")
    write(root_of(pool, "v1") / "f", 64 * MIB)
    pool.delete_snapshot("v1", "none")
    sync(pool)
    pool.resize("v1", 25 * MIB)
    pool.snapshot("v1", "s2")
    other = make_btrfs()
    other.add_image(IMAGE, fill)
    other.receive("v1", "s1", io.BytesIO(sent(pool, "s1")), 25 * MIB)
    other.receive("v1", "s2", io.BytesIO(sent(pool, "s2", since="s1")), 25 * MIB)
    assert other.usage("v1").limit == 25 * MIB
    with pytest.raises(OSError, match="quota exceeded"):
        (root_of(other, "v1") / "g").write_bytes(bytes(4 * MIB))


def spoilt(data: bytes) -> Iterator[bytes]:
    """Cut, flipped and other streams."""
    chance = random.Random(7)
    for end in (0, 3, 17, 100, len(data) // 2, len(data) - 33, len(data) - 1):
        yield data[:end]
    for _ in range(6):
        at = chance.randrange(len(data))
        yield data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    yield resealed(data[: len(data) // 2] + data[len(data) // 2 + 1 :])


def test_a_spoilt_stream_leaves_no_volume(pool: Btrfs, make_btrfs: MakeBtrfs) -> None:
    pool.create("v1", IMAGE, 64 * MIB)
    pool.snapshot("v1", "s1")
    other = make_btrfs()
    for bad in spoilt(sent(pool, "s1")):
        with pytest.raises(Invalid):
            other.receive("v1", "s1", io.BytesIO(bad), 64 * MIB)
        assert names(other) == set()
    assert not (other._layout.snapshots / "v1").exists()


def test_a_spoilt_or_foreign_difference_leaves_the_volume_as_it_was(pool: Btrfs, make_btrfs: MakeBtrfs) -> None:
    pool.create("v1", IMAGE, 64 * MIB)
    pool.snapshot("v1", "s1")
    other = make_btrfs()
    other.receive("v1", "s1", io.BytesIO(sent(pool, "s1")), 64 * MIB)
    (root_of(other, "v1") / "own").write_text("kept")
    before, had = tree(root_of(other, "v1")), names(other)
    change(root_of(pool, "v1"))
    pool.snapshot("v1", "s2")
    pool.snapshot("v1", "s3")
    foreign = make_btrfs()
    foreign.add_image(IMAGE, fill)
    foreign.create("v1", IMAGE, None)
    foreign.snapshot("v1", "s1")
    foreign.snapshot("v1", "s2")
    streams = [*spoilt(sent(pool, "s2", since="s1")), sent(pool, "s3", since="s2"), sent(foreign, "s2", since="s1"), envelope(b"x", driver="loop")]
    for bad in streams:
        with pytest.raises(Invalid):
            other.receive("v1", "s2", io.BytesIO(bad), 32 * MIB)
        assert tree(root_of(other, "v1")) == before
        assert names(other) == had
        assert other.usage("v1").limit == 64 * MIB
    with pytest.raises(Conflict):
        other.receive("v1", "s2", io.BytesIO(sent(pool, "s2")), 64 * MIB)
    with pytest.raises(Conflict):
        other.receive("v1", "s1", io.BytesIO(sent(foreign, "s1")), 64 * MIB)
    with pytest.raises(NotFound):
        make_btrfs().receive("v1", "s2", io.BytesIO(sent(pool, "s2", since="s1")), 64 * MIB)
    assert tree(root_of(other, "v1")) == before


FILE = command(Kind.FILE, path=b"f")
LINK = command(Kind.SYMLINK, path=b"l", path_link=b"/tmp")
ESCAPES = {
    "dots": command(Kind.FILE, path=b"../escaped"),
    "dots within": command(Kind.FOLDER, path=b"a/../../escaped"),
    "absolute": command(Kind.FILE, path=b"/tmp/escaped"),
    "through a link": LINK + command(Kind.FILE, path=b"l/escaped"),
    "write through a link": command(Kind.SYMLINK, path=b"l", path_link=b"/etc/passwd") + command(Kind.WRITE, path=b"l", offset=number(0), data=b"x"),
    "chmod through a link": LINK + command(Kind.CHMOD, path=b"l", mode=number(0o777)),
    "truncate through a link": command(Kind.SYMLINK, path=b"l", path_link=b"/etc/passwd") + command(Kind.TRUNCATE, path=b"l", size=number(0)),
    "xattr through a link": LINK + command(Kind.SET_XATTR, path=b"l", xattr_name=b"user.x", xattr_data=b"x"),
    "rename out": FILE + command(Kind.RENAME, path=b"f", path_to=b"../escaped"),
    "hard link from outside": command(Kind.LINK, path=b"h", path_link=b"../../../../etc/passwd"),
    "nul": command(Kind.FILE, path=b"a\0b"),
    "empty": command(Kind.FILE, path=b""),
    "too long": command(Kind.FILE, path=b"/".join([b"a" * 200] * 30)),
    "a name too long": command(Kind.FILE, path=b"a" * 300),
    "the root itself": command(Kind.RMDIR, path=b""),
    "a disk": command(Kind.NODE, path=b"sda", mode=number(stat.S_IFBLK | 0o666), rdev=number(os.makedev(8, 0))),
    "memory": command(Kind.NODE, path=b"mem", mode=number(stat.S_IFCHR | 0o666), rdev=number(os.makedev(1, 1))),
    "a host's owner": FILE + command(Kind.CHOWN, path=b"f", uid=number(100_000), gid=number(0)),
    "a host's group": FILE + command(Kind.CHOWN, path=b"f", uid=number(0), gid=number(2**32)),
    "a mode": FILE + command(Kind.CHMOD, path=b"f", mode=number(0o170000)),
    "a time": FILE + command(Kind.TIMES, path=b"f", atime=b"\xff" * 12, mtime=b"\xff" * 12),
    "an offset": FILE + command(Kind.WRITE, path=b"f", offset=number(2**63 - 1), data=b"x"),
    "a huge offset": FILE + command(Kind.WRITE, path=b"f", offset=number(2**64 - 1), data=b"x"),
    "a huge size": FILE + command(Kind.TRUNCATE, path=b"f", size=number(2**64 - 1)),
    "a fifo is written": command(Kind.FIFO, path=b"p") + command(Kind.WRITE, path=b"p", offset=number(0), data=b"x"),
    "a fifo is read": FILE + command(Kind.FIFO, path=b"p") + command(Kind.CLONE, path=b"f", offset=number(0), clone_uuid=OWN, clone_path=b"p", clone_offset=number(0), clone_length=number(4096)),
    "another's data": FILE + command(Kind.CLONE, path=b"f", offset=number(0), clone_uuid=b"z" * 16, clone_path=b"f", clone_offset=number(0), clone_length=number(0)),
    "data outside": FILE + command(Kind.CLONE, path=b"f", offset=number(0), clone_uuid=OWN, clone_path=b"../../../volumes/v0/f", clone_offset=number(0), clone_length=number(0)),
    "a second subvolume": command(Kind.SUBVOLUME, path=b"y", uuid=OWN),
    "a snapshot of another": command(Kind.SNAPSHOT, path=b"y", uuid=OWN, clone_uuid=OWN),
    "an unknown command": command(200),
    "version 2": command(25, path=b"f"),
    "no data": command(Kind.UPDATE_EXTENT, path=b"f", offset=number(0), size=number(4096)),
    "a missing field": command(Kind.FILE),
    "a short number": FILE + command(Kind.TRUNCATE, path=b"f", size=b"\1"),
    "a cut field": b"\x05\0\0\0\x03\0\0\0\0\0\x0f\0\xff\xffa",
    "a long command": b"\xff\xff\xff\xff\x03\0\0\0\0\0",
    "a link to nowhere": command(Kind.SYMLINK, path=b"l", path_link=b""),
}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_hostile_stream_is_refused_and_nothing_outside_is_written(pool: Btrfs, name: str) -> None:
    passwd, had = Path("/etc/passwd").stat(), names(pool)
    mode = Path("/tmp").stat().st_mode
    with pytest.raises(Invalid):
        pool.receive("v1", "s1", io.BytesIO(envelope(btrfs_stream(ESCAPES[name]))), 16 * MIB)
    assert names(pool) == had
    assert not list(pool._pool.rglob("escaped"))
    assert not Path("/tmp/escaped").exists()
    assert (Path("/etc/passwd").stat().st_mtime_ns, Path("/etc/passwd").stat().st_nlink) == (passwd.st_mtime_ns, passwd.st_nlink)
    assert Path("/tmp").stat().st_mode == mode


def test_an_owner_or_time_of_a_link_is_its_own(pool: Btrfs, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    then = victim.stat()
    stream = btrfs_stream(
        command(Kind.SYMLINK, path=b"l", path_link=os.fsencode(victim)),
        command(Kind.CHOWN, path=b"l", uid=number(7), gid=number(7)),
        command(Kind.TIMES, path=b"l", atime=b"\0" * 12, mtime=b"\0" * 12),
        command(Kind.SET_XATTR, path=b"", xattr_name=b"trusted.hostler", xattr_data=b'{"inherited": -1000000000}'),
        command(Kind.CHOWN, path=b"", uid=number(3), gid=number(3)),
    )
    pool.receive("v1", "s1", io.BytesIO(envelope(stream)), 16 * MIB)
    root = root_of(pool, "v1")
    assert ((root / "l").lstat().st_uid, (root / "l").lstat().st_mtime) == (7, 0)
    assert (victim.stat().st_uid, victim.stat().st_mtime_ns) == (then.st_uid, then.st_mtime_ns)
    assert root.stat().st_uid == 3
    assert 0 <= pool.usage("v1").used < MIB
    assert pool.usage("v1").limit == 16 * MIB


@pytest.mark.parametrize("header", [{"driver": "loop"}, {"snapshot": "s2"}, {"image": "../../etc"}])
def test_a_header_of_something_else_is_refused(pool: Btrfs, header: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        pool.receive("v1", "s1", io.BytesIO(envelope(btrfs_stream(), **header)), None)


@pytest.mark.parametrize("bad", ["", ".", "../x", "a/b", ".draft-a", "a\0b", "Ä", "a" * 64])
def test_hostile_ids_are_refused(pool: Btrfs, bad: str) -> None:
    pool.create("v1", IMAGE, None)
    had = names(pool)
    for call in (
        lambda: pool.snapshot("v1", bad),
        lambda: pool.snapshot(bad, "s1"),
        lambda: pool.snapshots(bad),
        lambda: pool.delete_snapshot("v1", bad),
        lambda: pool.delete_snapshot(bad, "s1"),
        lambda: pool.rollback("v1", bad),
        lambda: pool.clone("v1", bad, "v2", None),
        lambda: pool.clone("v1", "s1", bad, None),
        lambda: pool.send("v1", bad, io.BytesIO()),
        lambda: pool.receive("v2", bad, io.BytesIO(), None),
        lambda: pool.receive(bad, "s1", io.BytesIO(), None),
    ):
        with pytest.raises(Invalid):
            call()
    assert names(pool) == had


def test_a_reader_that_goes_ends_the_sending(pool: Btrfs) -> None:
    class Gone(io.BytesIO):
        def write(self, data: Any, /) -> int:
            if self.tell() > MIB:
                raise ConnectionResetError("gone")
            return super().write(data)

    pool.create("v1", IMAGE, None)
    pool.snapshot("v1", "s1")
    threads = threading.active_count()
    with pytest.raises(ConnectionResetError):
        pool.send("v1", "s1", Gone())
    assert threading.active_count() == threads
    pool.delete_snapshot("v1", "s1")


_RECEIVING = """
import sys
from pathlib import Path
from hostler.contracts.driver import Host
from hostler_plugins.storage.btrfs import Btrfs
import json
state, settings = sys.argv[1:]
host = Host(installation="test", node="alpha", state_dir=Path(state), libexec=Path(state), settings=json.loads(settings))
Btrfs(host).receive("v1", "s2", sys.stdin.buffer, 64 << 20)
"""


def test_a_process_killed_while_receiving_leaves_drafts_that_setup_removes(pool: Btrfs, make_btrfs: MakeBtrfs) -> None:
    pool.create("v1", IMAGE, 64 * MIB)
    pool.snapshot("v1", "s1")
    other = make_btrfs()
    other.receive("v1", "s1", io.BytesIO(sent(pool, "s1")), 64 * MIB)
    before, had = tree(root_of(other, "v1")), names(other)
    write(root_of(pool, "v1") / "f", 8 * MIB)
    pool.snapshot("v1", "s2")
    data = sent(pool, "s2", since="s1")
    words = [sys.executable, "-c", _RECEIVING, str(other.host.state_dir), json.dumps(other.host.settings)]
    child = subprocess.Popen(words, stdin=subprocess.PIPE)
    try:
        assert child.stdin is not None
        child.stdin.write(data[: len(data) // 2])
        child.stdin.flush()
        deadline = time.monotonic() + 10
        while not [item for item in other.inventory() if item.kind == "draft"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        other.setup()  # a live draft is left alone
        assert [item for item in other.inventory() if item.kind == "draft"]
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=10)
    assert tree(root_of(other, "v1")) == before
    other.setup()
    assert names(other) == had
    other.receive("v1", "s2", io.BytesIO(data), 64 * MIB)
    assert other.usage("v1").limit == 64 * MIB
    assert tree(root_of(other, "v1")) == tree(root_of(pool, "v1"))


def test_snapshots_of_a_volume_that_is_gone_are_removed_by_setup(pool: Btrfs) -> None:
    pool.create("v1", IMAGE, None)
    pool.snapshot("v1", "s1")
    with btrfs.opened(pool._layout.volumes) as parent:
        btrfs.destroy(parent, "v1")
    pool.setup()
    assert names(pool) == {f"images/{IMAGE}"}


def test_with_full_qgroups_snapshots_are_refused(make_btrfs: MakeBtrfs) -> None:
    driver = make_btrfs(quota=Mode.FULL)
    driver.add_image(IMAGE, fill)
    driver.create("v1", IMAGE, None)
    assert not driver.capabilities.snapshot
    assert not driver.capabilities.send
    for call in (
        lambda: driver.snapshot("v1", "s1"),
        lambda: driver.rollback("v1", "s1"),
        lambda: driver.send("v1", "s1", io.BytesIO()),
        lambda: driver.receive("v2", "s1", io.BytesIO(), None),
    ):
        with pytest.raises(Unsupported):
            call()


def test_quota_groups_go_with_volume_and_snapshots(pool: Btrfs) -> None:
    pool.create("v1", IMAGE, 32 * MIB)
    write(root_of(pool, "v1") / "f", MIB)
    pool.snapshot("v1", "s1")
    pool.rollback("v1", "s1")
    pool.delete("v1")
    deadline = time.monotonic() + 15
    while True:
        pool.delete("none")
        with btrfs.opened(pool._pool) as top:
            left = qgroups.at_level(top, pool._level)
        if not left:
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_two_at_once_on_one_volume(pool: Btrfs) -> None:
    pool.create("v1", IMAGE, 64 * MIB)
    pool.snapshot("v1", "s0")
    failures: list[BaseException] = []

    def work(own: int) -> None:
        try:
            for _ in range(5):
                pool.snapshot("v1", f"s{own}")
                pool.rollback("v1", "s0")
                pool.delete_snapshot("v1", f"s{own}")
        except (HostlerError, OSError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []
    assert names(pool) == {f"images/{IMAGE}", "volumes/v1", "snapshots/v1/s0"}
