"""Network namespaces on the real kernel."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.core.errors import HostFailure, Invalid
from hostler.core.names import new_id
from hostler.host import netns

pytestmark = pytest.mark.lab


def _own() -> Path:
    return Path("/proc/thread-self/ns/net").readlink()


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"ht{new_id(6)}-a"
    yield chosen
    netns.delete(chosen)


def test_a_named_namespace_is_made_entered_listed_and_deleted(name: str) -> None:
    path = netns.create(name)
    assert netns.create(name) == path
    assert netns.exists(name)
    assert name in netns.names(name[:8])
    before = _own()
    with netns.entered(path):
        assert _own() != before
        assert [interface for _, interface in socket.if_nameindex() if interface.startswith("eth")] == []
    assert _own() == before
    netns.delete(name)
    netns.delete(name)
    assert not netns.exists(name)
    assert netns.names(name) == []


def test_a_failure_inside_still_leads_back(name: str) -> None:
    path, before = netns.create(name), _own()
    with pytest.raises(ZeroDivisionError), netns.entered(path):
        _ = 1 / 0
    assert _own() == before


def test_only_the_calling_thread_moves(name: str) -> None:
    path, home = netns.create(name), _own()
    entered, looked = threading.Event(), threading.Event()
    seen: list[Path] = []

    def move() -> None:
        with netns.entered(path):
            entered.set()
            looked.wait(5)
            seen.append(_own())

    thread = threading.Thread(target=move)
    thread.start()
    assert entered.wait(5)
    assert _own() == home
    looked.set()
    thread.join()
    assert seen != [home]


def test_a_file_that_a_dead_creator_left_is_taken_over(name: str) -> None:
    netns.create(name)
    netns.delete(name)
    netns.path_of(name).touch()
    assert not netns.exists(name)
    with netns.entered(netns.create(name)):
        pass


def test_work_in_a_new_namespace() -> None:
    before = _own()
    inside = netns.inside_new(_own)
    assert inside != before
    assert _own() == before
    with pytest.raises(ZeroDivisionError):
        netns.inside_new(lambda: 1 // 0)


def test_what_is_not_there_is_said_in_words() -> None:
    with pytest.raises(HostFailure) as failure, netns.entered(Path("/run/netns/never-made")):
        pass
    assert failure.value.stable_code == "no_netns"
    assert "never-made" in failure.value.message
    file = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(HostFailure, match="cannot enter"), netns.entered(file):
            pass
    finally:
        os.close(file)


@pytest.mark.parametrize("bad", ["", "..", "a/b"])
def test_names_that_are_no_file_names(bad: str) -> None:
    with pytest.raises(Invalid):
        netns.path_of(bad)


def test_nothing_stays_open(name: str) -> None:
    netns.create(name)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with netns.entered(netns.path_of(name)):
            pass
        netns.inside_new(_own)
    assert len(os.listdir("/proc/self/fd")) == before
