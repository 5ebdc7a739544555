"""Memory that is copied while its container runs: CRIU's rounds through the driver, and whole moves between two servers.

How much is written is told in pages between two rounds, never by time: emulated processors have none to compare.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.core.specs import ContainerSpec, DriverNames
from hostler.host import devices, netns
from hostler.mobility import rounds
from hostler.node.mobility import revival
from hostler_plugins.ns import bundle
from tests.vm.moving import PAGE, Client, Move, at_points, compiled_into, writing
from tests.vm.node import Node, booted_pair

pytestmark = pytest.mark.lab

RUNC = DriverNames(ns="runc", net="bridge", storage="btrfs", limits="cgroup2")
CRUN = DriverNames(ns="crun", net="bridge", storage="btrfs", limits="cgroup2")
#: Pages that a container writes besides what it is told: stacks, the C library, init.
BESIDES = 200
MEMORY = 32
PAGES = MEMORY * 256


@pytest.fixture(scope="session")
def rootfs(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual one, with the writer."""
    return compiled_into(rootfs, tmp_path_factory.mktemp("writer"))


@pytest.fixture
def pair(tmp_path: Path, libexec: Path, rootfs: Path) -> Iterator[tuple[Node, Node]]:
    """Two servers."""
    with booted_pair(tmp_path, libexec, rootfs, CRUN) as made:
        yield made


def in_images(folder: Path) -> int:
    """Pages of memory in a folder of images, without those of the ones before."""
    return sum(file.stat().st_size for file in folder.glob("pages-*.img")) // PAGE


class Rounds:
    """Rounds of one container's memory, by the drivers of its server."""

    def __init__(self, node: Node, spec: ContainerSpec, folder: Path) -> None:
        self.node, self.spec, self.folder = node, spec, folder
        self.done: list[rounds.Round] = []
        folder.mkdir(parents=True)

    def last(self) -> Path | None:
        return self.folder / f"pre-{len(self.done) - 1}" if self.done else None

    def copy(self) -> str | None:
        """One more; the rule's word on it."""
        checkpoint, ns = self.node.server.drivers.checkpoint(), self.node.server.drivers.ns(self.spec.drivers.ns)
        folder, last = self.folder / f"pre-{len(self.done)}", self.last()
        folder.mkdir()
        report = checkpoint.pre_dump(ns.shape(self.spec.id), folder, parent=last)
        assert ns.inspect(self.spec.id).state == "running"
        assert report.pages == in_images(folder), "what CRIU says of itself"
        if last is not None:
            assert os.readlink(folder / "parent") == f"../{last.name}"
        self.done.append(rounds.Round(report.pages, report.milliseconds))
        return rounds.verdict(self.done)


@pytest.mark.parametrize("node", [RUNC], indirect=True)
def test_rounds_converge_and_the_chain_is_whole_in_another_folder(node: Node, tmp_path: Path) -> None:
    with writing(node, MEMORY) as (spec, client):
        copied, told = Rounds(node, spec, tmp_path / "draft"), []
        for pages in (4096, 2048, 512, 100):
            told.append(copied.copy())
            client.ask(f"write {pages}")
        assert told[:3] == [None] * 3 and told[3] is not None and "which is little" in told[3]
        assert PAGES <= copied.done[0].pages < PAGES + 4 * BESIDES
        assert [within(one.pages, pages) for one, pages in zip(copied.done[1:], (4096, 2048, 512), strict=True)] == [True] * 3
        written, _ = client.checked()
        client.close()
        ns, net, checkpoint = node.server.drivers.ns("runc"), node.server.drivers.net("bridge"), node.server.drivers.checkpoint()
        with netns.entered(node.netns):
            before = ns.shape(spec.id)
            net.hold(spec.id)
            ns.freeze(spec.id)
            last = copied.folder / "images"
            last.mkdir()
            checkpoint.dump(ns.shape(spec.id), last, parent=copied.last())
            assert within(in_images(last), 100), "the last one holds but the rest"
            assert_held_to_devices(tmp_path, Path(before.cgroups["unified"]), runtime_too=True)
            revival.undo(node.server, spec)
            images = revival.images_of(node.server, spec.id)
            shutil.copytree(copied.folder, images.parent, symlinks=True)
            shutil.rmtree(copied.folder)
            assert (images / "parent/parent/parent/parent").resolve() == images.parent / "pre-0"
            revival.revive(node.server, spec)
            revival.let_go(node.server, spec)
            assert_held_to_devices(tmp_path, Path(ns.shape(spec.id).cgroups["unified"]), runtime_too=False)
            revival.clear(node.server, spec.id)
        again = Client(spec)
        assert again.checked() == (written, 0)
        again.ask("write 10")
        assert again.checked() == (written + 10, 0)
        again.close()
        assert node.sh(spec, "echo x > /dev/null; head -c 3 /dev/urandom | wc -c").stdout == "3\n"


def within(pages: int, wanted: int) -> bool:
    """Whether so many were copied, and little besides."""
    return wanted <= pages < wanted + BESIDES


def assert_held_to_devices(scratch: Path, cgroup: Path, *, runtime_too: bool) -> None:
    """Our program, after the runtime's own if there is one, refuses even the host's root what is not on the list."""
    assert len(devices.programs(cgroup)) == 1 + runtime_too
    devices.hold(cgroup, bundle.DEVICES)
    assert len(devices.programs(cgroup)) == 1 + runtime_too, "again is the same"
    kmsg = scratch / "kmsg"
    if not kmsg.exists():
        os.mknod(kmsg, stat.S_IFCHR | 0o600, os.makedev(1, 11))
    tried = f"""
import os
open({str(cgroup / "cgroup.procs")!r}, "w").write("0")
for node in ("/dev/null", "/dev/urandom", {str(kmsg)!r}, "/dev/loop-control", "/dev/net/tun"):
    try:
        os.close(os.open(node, os.O_RDWR | os.O_NONBLOCK))
    except OSError as error:
        print(error.errno)
    else:
        print(0)
"""
    frozen = (cgroup / "cgroup.freeze").read_text()
    (cgroup / "cgroup.freeze").write_text("0")  # whoever joins would be frozen too
    try:
        said = subprocess.run([sys.executable, "-c", tried], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    finally:
        (cgroup / "cgroup.freeze").write_text(frozen)
    assert said == ["0", "0", *[str(errno.EPERM)] * 3]


@pytest.mark.parametrize("node", [RUNC], indirect=True)
def test_whoever_writes_as_fast_as_it_is_copied_ends_it(node: Node, tmp_path: Path) -> None:
    with writing(node, MEMORY) as (spec, client):
        copied = Rounds(node, spec, tmp_path / "draft")
        assert copied.copy() is None
        client.ask("write 3000")
        assert copied.copy() is None
        client.ask("write 2900")
        why = copied.copy()
        assert why is not None and "writes as fast as it is copied" in why
        anew = Rounds(node, spec, tmp_path / "another")
        assert anew.copy() is None
        assert anew.done[0].pages >= PAGES, "a chain that was given up is no part of the next one"
        assert client.checked() == (PAGES + 5900, 0)


def test_a_whole_move_and_one_that_failed_before_it(pair: tuple[Node, Node]) -> None:
    alpha, beta = pair
    with writing(alpha, MEMORY) as (spec, client):
        created = device_programs(alpha, spec)
        broken = Move.of(spec, alpha, beta)
        broken.prepare()
        assert beta.server.wire is not None
        with at_points(alpha, {"out.round-1": lambda: hung_up(broken)}):
            (outcome,) = broken.out("pre_copy").outcomes
        assert outcome.error is not None, outcome.result
        broken.call_off()
        assert client.checked() == (PAGES, 0)

        with steadily(client) as answers:
            steps = {f"out.round-{number}": (lambda pages=pages: client.ask(f"write {pages}")) for number, pages in enumerate((4096, 2048, 512, 100))}
            with at_points(alpha, steps):
                report = Move.of(spec, alpha, beta).whole("pre_copy")
        print(report, f"{len(answers)} answers, the slowest after {max(answers):.2f} s")
        assert report["method"] == "pre_copy"
        assert "it was asked for; the last round copied" in report["why"] and report["why"].endswith("which is little")
        sizes = [one["bytes"] // PAGE for one in report["rounds"]]
        assert sizes[0] >= PAGES and [within(size, wanted) for size, wanted in zip(sizes[1:], (4096, 2048, 512), strict=True)] == [True] * 3
        assert report["bytes"] > sum(one["bytes"] for one in report["rounds"])
        assert client.checked() == (PAGES + 4096 + 2048 + 512 + 100, 0), "over the connection that was open all the while"

        moved = device_programs(beta, spec)
        assert len(moved) == 1 and moved <= created, "what holds a created one to its devices holds a moved one too"

        client.ask("busy 4096")
        report = Move.of(spec, beta, alpha).whole("pre_copy")
        print(report)
        assert report["why"].endswith("the container writes as fast as it is copied")
        passes = client.checked()[1]
        assert passes > 0
        client.ask("busy 0")
        client.checked()
        assert alpha.sh(spec, "cat /proc/1/comm").stdout == "init\n"


def device_programs(node: Node, spec: ContainerSpec) -> set[str]:
    """Tags of what is attached to a container's cgroup."""
    return set(devices.programs(Path(node.server.drivers.ns(spec.drivers.ns).shape(spec.id).cgroups["unified"])))


def hung_up(move: Move) -> None:
    """The wire breaks."""
    assert move.target.server.wire is not None
    move.target.server.wire.hang_up(move.operation)


@contextlib.contextmanager
def steadily(client: Client) -> Iterator[list[float]]:
    """While inside, a client asks one question after the other; seconds until each answer."""
    answers, ended = list[float](), threading.Event()

    def body() -> None:
        while not ended.is_set():
            began = time.monotonic()
            client.ask("write 0")
            answers.append(time.monotonic() - began)
            time.sleep(0.02)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join(130)
    assert not thread.is_alive()


def test_memory_that_follows_is_whole(pair: tuple[Node, Node]) -> None:
    """Post-copy: what the kernel of the development machine has too, here with all of CAP_SYS_RESOURCE."""
    alpha, beta = pair
    setting = Path("/proc/sys/vm/unprivileged_userfaultfd")
    before = setting.read_text()
    setting.write_text("1")
    try:
        with writing(alpha, MEMORY) as (spec, client):
            client.ask("write 1000")
            report = Move.of(spec, alpha, beta).whole("post_copy")
            print(report)
            assert report["method"] == "post_copy"
            assert client.checked() == (PAGES + 1000, 0)
    finally:
        setting.write_text(before)
