"""How packets follow a container from server to server, with drivers of plain files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hostler.contracts.driver import Host
from hostler.core.errors import HostFailure
from hostler.core.specs import ContainerSpec, Link
from hostler.node.mobility import following
from hostler.node.verbs import Server
from hostler.testing.arenas.net import link
from hostler.testing.fakes.net import FakeNet

_LINK = link(1)


class _Broken(FakeNet):
    def expect(self, container: str, link: Link) -> None:
        raise HostFailure("no", hint="at all")


def _server(net: FakeNet) -> Server:
    return cast(Server, SimpleNamespace(drivers=SimpleNamespace(net=lambda name: net)))


def _spec(*links: Link) -> ContainerSpec:
    return cast(ContainerSpec, SimpleNamespace(id="c1", links=links, drivers=SimpleNamespace(net="fake")))


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Any]:
    """Makes a server's driver."""

    def make(name: str, kind: type[FakeNet] = FakeNet) -> FakeNet:
        return kind(Host("inst", name, tmp_path / name, tmp_path))

    return make


def test_what_came_anywhere_reaches_the_container_in_order(made: Callable[..., FakeNet]) -> None:
    here, there = made("alpha"), made("beta")
    here.attach("c1", _LINK, 7)
    here.arrive("c1", _LINK.name, b"before")
    here.hold("c1")
    here.arrive("c1", _LINK.name, b"\x00one")
    with following.expected(_server(there), _spec(_LINK)):
        there.arrive("c1", _LINK.name, b"two")
        there.attach("c1", _LINK, 8, held=True)
        there.arrive("c1", _LINK.name, b"three")
    packets = following.left_behind(_server(here), _spec(_LINK))
    following.bring(_server(there), _spec(_LINK), packets)
    there.release("c1")
    assert here.received("c1") == [(_LINK.name, b"before")]
    assert [packet for _, packet in there.received("c1")] == [b"\x00one", b"two", b"three"]
    assert following.left_behind(_server(here), _spec(_LINK)) == {}


def test_a_container_that_does_not_arrive_is_expected_no_longer(made: Callable[..., FakeNet]) -> None:
    there = made("beta")
    with pytest.raises(RuntimeError), following.expected(_server(there), _spec(_LINK)):
        assert there.inventory()
        raise RuntimeError
    assert there.inventory() == []


def test_a_driver_that_fails_or_a_word_that_is_none_fails_no_move(made: Callable[..., FakeNet]) -> None:
    there = made("beta", _Broken)
    with following.expected(_server(there), _spec(_LINK)):
        there.attach("c1", _LINK, 8, held=True)
    following.bring(_server(there), _spec(_LINK), {_LINK.name: ["no base64 !"], "none": []})
    there.release("c1")
    assert there.received("c1") == []


def test_more_than_goes_along_stays_behind(made: Callable[..., FakeNet]) -> None:
    here = made("alpha")
    here.attach("c1", _LINK, 7)
    here.hold("c1")
    for _ in range(5):
        here.arrive("c1", _LINK.name, bytes(200_000))
    assert [len(texts) for texts in following.left_behind(_server(here), _spec(_LINK)).values()] == [2]


def test_a_container_without_links_has_nothing_to_follow(made: Callable[..., FakeNet]) -> None:
    there = made("beta")
    with following.expected(_server(there), _spec()):
        assert there.inventory() == []
    assert following.left_behind(_server(there), _spec()) == {}
