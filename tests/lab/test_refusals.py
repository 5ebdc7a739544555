"""What cannot be done is refused in words, and leaves nothing behind: the ``platform`` fixture looks after each test."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostler.client.client import Client
from hostler.core.api import ImageOut, OperationOut
from hostler.core.errors import HostlerError
from hostler.core.units import MIB
from tests.lab.installation import IMAGE, PLAN, Platform
from tests.lab.machine import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


# --- requests that cannot be meant ---


@pytest.mark.parametrize(
    ("change", "code", "hint"),
    [
        ({"image": "nonesuch"}, "unknown_image", IMAGE),
        ({"plan": "nonesuch"}, "unknown_plan", PLAN),
        ({"name": "taken"}, "name_taken", "another name"),
        ({"name": "No Name"}, "invalid", ""),
        ({"limits": {"memory": "1M"}}, "invalid", ""),
    ],
)
def test_refused_at_once(platform: Platform, change: dict[str, object], code: str, hint: str) -> None:
    platform.create("taken")
    before = len(platform.client.operations())
    with pytest.raises(HostlerError) as refused:
        platform.client.create(platform.body("new") | change)
    assert refused.value.stable_code == code
    assert hint in refused.value.hint
    assert refused.value.http_status < 500
    assert len(platform.client.operations()) == before
    assert [one.name for one in platform.client.containers()] == ["taken"]


def test_larger_than_any_server(platform: Platform) -> None:
    ended = platform.failed(platform.client.create(platform.body("giant", limits={"memory": "1T"})), "no_server")
    assert ended.error is not None
    for server in platform.servers:
        assert f"{server} has" in ended.error.message
    assert "of memory left" in ended.error.message


def test_a_resize_beyond_the_server_changes_nothing(platform: Platform) -> None:
    web = platform.create("web")
    limit = Path(platform.init(web).cgroups["memory"], "memory.limit_in_bytes")
    platform.failed(platform.client.resize("web", {"memory": "1T"}), "no_room")
    assert int(limit.read_text()) == 48 * MIB
    assert platform.client.container("web").limits == web.limits


def test_a_resize_below_what_is_in_use_changes_nothing(platform: Platform) -> None:
    web = platform.create("web")
    platform.shell("web", "dd if=/dev/urandom of=/big bs=1M count=30; sync /big")
    platform.failed(platform.client.resize("web", {"disk": "16M", "memory": "64M"}), "below_use")
    assert platform.client.container("web").limits == web.limits
    assert int(Path(platform.init(web).cgroups["memory"], "memory.limit_in_bytes").read_text()) == 48 * MIB


def test_a_command_that_is_not_there_is_told_by_the_container(platform: Platform) -> None:
    platform.create("lost", "/no/such/command")
    assert platform.event("lost", "exited").message.endswith("status 127")
    wait_until(lambda: platform.client.container("lost").state == "stopped", 10)
    assert any("/no/such/command" in line.text for line in platform.client.logs("lost").lines)


# --- images ---


def test_an_archive_that_vanished(platform: Platform) -> None:
    """Where it was unpacked before it still serves; where not, the container is refused."""
    image = _import(platform, "fleeting", _archive(_file("bin/sh", b"#!"), _file("etc/hostname", os.urandom(8))))
    try:
        (platform.apart.lab.control / "blobs" / image.digest.removeprefix("sha256:")).unlink()
        (has,) = [server for server in platform.servers if _unpacked(platform, server, image)]
        outcomes = {}
        for number in range(6):
            ended = platform.client.wait(platform.client.create(platform.body(f"one-{number}", image="fleeting")).id)
            outcomes[ended.node] = ended
            if len(outcomes) == 2:
                break
            if ended.state == "failed":
                platform.create(f"aside-{number}")  # else placement would go there again
        for server, ended in outcomes.items():
            assert (ended.state == "done") == (server == has), (server, has, ended.error)
            if ended.error is not None:
                assert ended.error.code == "image_vanished"
        assert len(outcomes) == 2
    finally:
        platform.delete_all()
        platform.done(platform.client.delete_image("fleeting"))


def _file(name: str, content: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    return entry, content


def _special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.devmajor, entry.devminor = kind, link, 7, 0
    return entry, b""


def _archive(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for entry, content in entries:
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _upload(client: Client, name: str, archive: bytes) -> OperationOut:
    return client.import_image(name, iter([archive]), len(archive))


def _import(platform: Platform, name: str, archive: bytes) -> ImageOut:
    platform.done(_upload(platform.client, name, archive))
    return platform.client.image(name)


def _unpacked(platform: Platform, server: str, image: ImageOut) -> bool:
    short = image.digest.removeprefix("sha256:")[:16]
    return any(path.name == short for path in platform.pool(server).glob("*/images/*"))


_ROOT = _file("bin/sh", b"#!")


@pytest.mark.parametrize(
    ("archive", "code"),
    [
        (_archive(_ROOT, _special("dev/disk", tarfile.BLKTYPE)), "image_unsafe"),
        (_archive(_ROOT, _file("../../../../hst-escaped", b"x")), "image_unsafe"),
        (_archive(_ROOT, _special("out", tarfile.LNKTYPE, "../../../../etc/shadow")), "image_unsafe"),
        (_archive(_file("readme", b"no root")), "unknown_format"),
        (_archive(_file("data/etc/passwd", b"not at the top")), "unknown_format"),
        (_archive(_ROOT, _file("etc/big", bytes(1 << 16)))[: 1 << 15], "image_damaged"),
        (b"not an archive at all" * 100, "unknown_format"),
    ],
    ids=["device", "climbs", "hard link out", "no root", "root below", "cut short", "no archive"],
)
def test_a_hostile_or_broken_archive(platform: Platform, archive: bytes, code: str) -> None:
    images = sorted(image.name for image in platform.client.images())
    platform.failed(_upload(platform.client, "hostile", archive), code)
    assert sorted(image.name for image in platform.client.images()) == images
    for server in platform.servers:
        assert not list(platform.state(server).rglob("hst-escaped"))
    assert not Path("/hst-escaped").exists()


# --- full disks ---


@contextmanager
def _nearly_full(platform: Platform, left: int) -> Iterator[None]:
    """All pools with so many bytes free."""
    fillers = [platform.pool(server) / "filler" for server in platform.servers]
    try:
        for filler in fillers:
            _fill(filler, left)
        yield
    finally:
        for filler in fillers:
            filler.unlink(missing_ok=True)
            os.sync()


def _fill(file: Path, left: int) -> None:
    with file.open("wb") as out:
        for step in (1 << 30, 64 * MIB, 8 * MIB):
            while (free := os.statvfs(file.parent)).f_bavail * free.f_frsize > left + step:
                try:
                    os.posix_fallocate(out.fileno(), out.seek(0, os.SEEK_END), step)
                except OSError:
                    break  # what is free is not in one piece of this size
            os.fsync(out.fileno())


def test_no_room_for_a_volume(platform: Platform) -> None:
    running = platform.create("running")
    with _nearly_full(platform, 16 * MIB):
        platform.failed(platform.client.create(platform.body("late")), "disk_full")
        assert platform.shell("running", "echo alive") == "alive\n"
        platform.done(platform.client.restart("running"))
        platform.done(platform.client.delete("running"))
    assert platform.create("late").node == running.node


def test_the_disk_fills_while_an_image_is_unpacked(platform: Platform) -> None:
    block = os.urandom(MIB)
    big = gzip.compress(_archive(_ROOT, *(_file(f"data/{number}", block) for number in range(80))), 1)
    with _nearly_full(platform, 64 * MIB):
        platform.create("neighbour")
        platform.failed(_upload(platform.client, "big", big), "disk_full")
        platform.shell("neighbour", "echo still > /file")
    _import(platform, "big", big)
    platform.done(platform.client.delete_image("big"))


# --- servers that are gone ---


def test_servers_that_are_down(platform: Platform) -> None:
    """One, then both: work goes to the other, or fails in words; what was on the dead one is settled when it is back."""
    client = platform.client
    here, there = platform.create_on("alpha", "here"), platform.create_on("beta", "there")
    before = platform.init(here)
    try:
        platform.stop_program("node-alpha")
        stopped_at = time.monotonic()
        waiting = [client.exec("here", {"args": ["touch", "/too-late"]}), client.stop("here"), *_placed_on_the_dead(platform)]
        _wait_offline(platform, "alpha")
        assert platform.create("elsewhere").node == "beta"
        platform.stop_program("node-beta")
        for operation in waiting:
            platform.failed(operation, "node_offline")
        assert time.monotonic() - stopped_at < 60
        assert client.container("here").state == "error"
        assert platform.init(here) == before  # it runs on all the while
        _wait_offline(platform, "beta")
        ended = platform.failed(client.create(platform.body("nowhere")), "no_server")
        assert ended.error is not None
        assert "alpha is offline; beta is offline" in ended.error.message
        platform.failed(client.build_image("never", "busybox"), "no_server")
        assert "never" not in [image.name for image in client.images()]
        for read in (client.usage, client.logs):
            with pytest.raises(HostlerError) as silent:
                read("there")
            assert silent.value.stable_code == "node_offline"
    finally:
        for program in ("node-alpha", "node-beta"):
            if platform.apart.pids()[program] == 0:
                platform.start_program(program)
    platform.wait_online()
    wait_until(lambda: {one.name for one in client.containers()} == {"here", "there", "elsewhere"}, 20, "what was given up is still there")
    assert platform.init(here) == before  # what was said to have failed is not done after all
    platform.done(client.restart("here"))
    assert platform.shell("here", "hostname; ls /") == "here\n" + platform.shell("there", "ls /")
    assert platform.init(there)


def _placed_on_the_dead(platform: Platform) -> list[OperationOut]:
    """Creates for which a server was chosen that was still thought to be there; those that went elsewhere are done."""
    operations = [platform.client.create(platform.body(f"late-{number}")) for number in range(3)]
    wait_until(lambda: all(platform.client.operation(one.id).node for one in operations), 10)
    on_dead = [one for one in operations if platform.client.operation(one.id).node == "alpha"]
    for operation in operations:
        if operation not in on_dead:
            platform.done(operation)
            platform.delete(operation.target)
    assert on_dead, "placement never chose the dead server"
    return on_dead


def _wait_offline(platform: Platform, server: str) -> None:
    wait_until(lambda: platform.client.node(server).state == "offline", 40, f"server {server} is still online")
