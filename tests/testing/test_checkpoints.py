"""The fake checkpoint driver with the fake ns driver: memory comes back, held until it is let run, and nothing is left of what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.contracts.storage import RootPlan
from hostler.core.errors import Conflict, HostFailure, Unsupported
from hostler.core.specs import ContainerSpec, ExecSpec, IdRange, ImageSpec
from hostler.node.drivers import Drivers, load_classes
from hostler.testing.fakes import FAKES
from hostler.testing.fakes.ns import FakeNs
from hostler.testing.faults import Faults

SPEC = ContainerSpec(
    id="0web", name="web", account="0acme", ids=IdRange(base=1_000_000), image=ImageSpec(digest="sha256:" + "0" * 64, driver="rootfs", size=1)
)
ROOT = RootPlan(mounts=[])


@pytest.fixture
def drivers(tmp_path: Path) -> Drivers:
    host = Host(installation="t", node="alpha", state_dir=tmp_path, libexec=tmp_path, settings={})
    return load_classes(host, FAKES.values(), setup=True)


@pytest.fixture
def images(tmp_path: Path, drivers: Drivers) -> Path:
    """Of a container that remembers something and is gone."""
    ns, limits, folder = drivers.ns("fake"), drivers.limits("fake"), tmp_path / "images"
    folder.mkdir()
    ns.create(SPEC, ROOT, limits.create(SPEC.id, SPEC.limits))
    ns.start(SPEC.id)
    ns.exec(SPEC.id, ExecSpec(args=("remember", "the milk")))
    ns.freeze(SPEC.id)
    assert drivers.checkpoint().dump(ns.shape(SPEC.id), folder).pages == 1
    ns.delete(SPEC.id)
    limits.remove(SPEC.id)
    return folder


def _restore(drivers: Drivers, images: Path) -> int:
    ns, cgroup = drivers.ns("fake"), drivers.limits("fake").create(SPEC.id, SPEC.limits)
    return drivers.checkpoint().restore(ns.land(SPEC, ROOT, cgroup), images, lambda pid: ns.furnish(SPEC.id, pid))


def test_memory_comes_back_and_is_held_until_it_is_let_run(drivers: Drivers, images: Path) -> None:
    checkpoint, ns = drivers.checkpoint(), drivers.ns("fake")
    pid = _restore(drivers, images)
    assert checkpoint.held(images) == pid
    assert ns.adopt(SPEC.id, pid).pid == pid
    checkpoint.release(images)
    checkpoint.release(images)
    assert checkpoint.held(images) is None
    assert ns.exec(SPEC.id, ExecSpec(args=("recall",))).stdout == "the milk\n"
    checkpoint.abandon(images)
    assert ns.inspect(SPEC.id).state == "running"


def test_what_is_abandoned_is_gone_and_cannot_be_let_run(drivers: Drivers, images: Path) -> None:
    checkpoint, ns = drivers.checkpoint(), drivers.ns("fake")
    pid = _restore(drivers, images)
    checkpoint.abandon(images)
    with pytest.raises(Conflict):
        checkpoint.release(images)
    with pytest.raises(Conflict):
        ns.adopt(SPEC.id, pid)
    assert drivers.limits("fake").processes(SPEC.id) == []
    assert (images / "pages").read_text() == "the milk"


def test_a_restore_that_fails_leaves_nothing(drivers: Drivers, images: Path, tmp_path: Path) -> None:
    Faults(tmp_path).inject("checkpoint.restore:done", "HostFailure")
    with pytest.raises(HostFailure):
        _restore(drivers, images)
    assert drivers.limits("fake").processes(SPEC.id) == []
    assert drivers.checkpoint().held(images) is None


def test_one_that_is_there_is_not_restored_over(drivers: Drivers, images: Path) -> None:
    drivers.ns("fake").adopt(SPEC.id, _restore(drivers, images))
    with pytest.raises(Conflict, match="running on this server already"):
        _restore(drivers, images)


def test_memory_that_an_earlier_copy_has_is_not_written_again(drivers: Drivers, tmp_path: Path) -> None:
    ns, checkpoint, folders = drivers.ns("fake"), drivers.checkpoint(), [tmp_path / name for name in ("first", "second")]
    assert isinstance(ns, FakeNs)
    ns.create(SPEC, ROOT, drivers.limits("fake").create(SPEC.id, SPEC.limits))
    ns.start(SPEC.id)
    for folder in folders:
        folder.mkdir()
    assert checkpoint.pre_dump(ns.shape(SPEC.id), folders[0]).pages == 1
    report = checkpoint.dump(ns.shape(SPEC.id), folders[1], parent=folders[0])
    assert (report.pages, report.skipped) == (0, 1)
    ns.exec(SPEC.id, ExecSpec(args=("remember", "device /dev/net/tun")))
    assert [obstacle.code for obstacle in checkpoint.examine(ns.shape(SPEC.id))] == ["device"]


def test_a_server_without_a_driver_says_so(tmp_path: Path) -> None:
    host = Host(installation="t", node="alpha", state_dir=tmp_path, libexec=tmp_path, settings={})
    with pytest.raises(Unsupported, match="no usable checkpoint driver"):
        load_classes(host, [FAKES["ns"]]).checkpoint()
