"""The platform from the API to the drivers, without root: the life of a container, and every step of it failing."""

from __future__ import annotations

import pytest

from hostler.core.errors import HostlerError
from hostler.testing.fakes.limits import FakeLimits
from hostler.testing.fakes.net import FakeNet
from hostler.testing.fakes.storage import FakeStorage
from hostler.testing.faults import Action
from tests.testing.world import Platform

#: Points that a provision passes, in order.
PROVISION = (
    "storage.create", "storage.create:done", "limits.create", "limits.create:done", "ns.create", "ns.create:made", "ns.create:done",
    "net.attach", "net.attach:done", "ns.start",
)  # fmt: skip


def test_the_life_of_a_container(platform: Platform) -> None:
    client, drivers = platform.client, platform.server.side.drivers
    storage, limits, net = drivers.storage("fake"), drivers.limits("fake"), drivers.net("fake")
    assert isinstance(storage, FakeStorage) and isinstance(limits, FakeLimits) and isinstance(net, FakeNet)
    platform.done(platform.create("web"))
    web = client.container("web")
    assert (web.state, web.node, web.drivers["storage"]) == ("running", "alpha", "fake")
    said = platform.done(client.exec("web", {"args": ["echo", "grüße"]}))
    assert (said.result["exit_code"], said.result["stdout"]) == (0, "grüße\n")

    platform.done(client.resize("web", {"memory": "128M", "disk": "16M", "rate_in": "10Mbit"}))
    assert limits.limits_of(web.id).memory == 128 << 20
    assert storage.usage(web.id).limit == 16 << 20
    assert net.links_of(web.id)["eth0"].rate_in == 10_000_000
    assert client.usage("web").running

    platform.done(client.stop("web"))
    assert {item.kind for item in platform.server.inventory()} == {"volume", "folder"}
    platform.done(client.start("web"))
    assert client.container("web").state == "running"
    platform.done(client.delete("web"))
    assert platform.server.inventory() == []
    assert list(client.containers()) == []


def test_a_failure_at_any_step_of_anything(platform: Platform) -> None:
    actions: tuple[Action, ...] = ("HostFailure", "bug", "ENOSPC")
    for number, point in enumerate(PROVISION):
        a_provision_that_fails_leaves_nothing(platform, f"web{number}", point, actions[number % 3])
    platform.done(platform.create("web"))
    platform.done(platform.client.delete("web"))
    a_resize_that_fails_changes_nothing(platform)
    a_delete_that_fails_can_be_asked_for_again(platform)


def a_provision_that_fails_leaves_nothing(platform: Platform, name: str, point: str, action: Action) -> None:
    platform.server.faults.inject(point, action)
    failed = platform.failed(platform.create(name))
    assert failed.error is not None and failed.error.bug is (action != "HostFailure"), point
    assert platform.server.faults.hits() >= 1, point
    assert platform.server.inventory() == [], point
    assert list(platform.client.containers()) == [], point
    platform.server.faults.clear()


def a_resize_that_fails_changes_nothing(platform: Platform) -> None:
    platform.done(platform.create("web"))
    drivers, container = platform.server.side.drivers, platform.client.container("web").id
    storage, limits, net = drivers.storage("fake"), drivers.limits("fake"), drivers.net("fake")
    assert isinstance(limits, FakeLimits) and isinstance(net, FakeNet)
    before = (storage.usage(container), limits.limits_of(container), net.links_of(container))
    for point in ("storage.resize", "storage.resize:done", "limits.apply", "limits.apply:done", "net.shape"):
        platform.server.faults.inject(point, "HostFailure")
        platform.failed(platform.client.resize("web", {"memory": "32M", "disk": "6M", "rate_in": "1Mbit"}))
        assert platform.server.faults.hits() >= 1, point
        assert (storage.usage(container), limits.limits_of(container), net.links_of(container)) == before, point
        assert platform.client.container("web").limits.memory == 64 << 20
        platform.server.faults.clear()
    platform.done(platform.client.delete("web"))
    assert platform.server.inventory() == []


def a_delete_that_fails_can_be_asked_for_again(platform: Platform) -> None:
    for point in ("net.detach", "ns.delete", "limits.remove", "storage.delete", "storage.delete:done"):
        platform.done(platform.create("web"))
        platform.server.faults.inject(point, "HostFailure")
        ended = platform.client.wait(platform.client.delete("web").id)
        assert ended.state in ("failed", "needs_attention"), point
        assert ended.error is not None and point in ended.error.message
        platform.server.faults.clear()
        platform.done(platform.client.delete("web"))
        assert platform.server.inventory() == [], point


def test_what_cannot_be_done_is_told_in_words(platform: Platform) -> None:
    platform.server.faults.inject("storage.create", "NoRoom")
    full = platform.failed(platform.create("web"))
    assert full.error is not None and full.error.code == "no_room"
    platform.server.faults.clear()
    platform.server.faults.inject("ns.create", "none", delay=0.3)
    slow = platform.done(platform.create("web"))
    assert slow.seconds is not None and slow.seconds >= 0.3
    failed = platform.failed(platform.client.exec("web", {"args": ["rm", "-rf", "/"]}))
    assert failed.error is not None and failed.error.code == "not_executable"
    late = platform.done(platform.client.exec("web", {"args": ["sleep", "5"], "timeout": 0.05}))
    assert late.result["timed_out"]
    platform.done(platform.client.stop("web"))
    with pytest.raises(HostlerError) as refused:
        platform.client.exec("web", {"args": ["true"]})
    assert refused.value.stable_code == "wrong_state"
