"""A node worker's wire: told to others when it greets, ended with the worker, and no reason not to start."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest

from hostler.node.drivers import load_classes
from hostler.node.facts import facts
from hostler.settings import NodeSettings
from hostler.testing.fakes import FAKES
from hostler.workers.node_side import NodeSide


def side(folder: Path, redis_socket: Path, listen: str) -> NodeSide:
    settings = NodeSettings(
        installation="wiretest", redis_socket=redis_socket, node="alpha", node_state=folder, libexec=folder, node_wire_listen=listen,
        capacity_disk=1 << 30, capacity_memory=1 << 30, capacity_cpus=1,
    )  # fmt: skip
    return NodeSide(settings, partial(load_classes, classes=FAKES.values(), setup=True))


def wire_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("wire-")]


def test_a_worker_tells_where_it_listens_and_by_what_it_is_known(redis_socket: Path, tmp_path: Path) -> None:
    first = side(tmp_path, redis_socket, "127.0.0.1:0")
    try:
        told = facts(first.settings, first.drivers, first.wire).wire
        assert told is not None
        assert first.server.wire is first.wire
        assert wire_threads()
    finally:
        first.close()
    assert not wire_threads()
    second = side(tmp_path, redis_socket, told.address)
    try:
        assert facts(second.settings, second.drivers, second.wire).wire == told
    finally:
        second.close()


@pytest.mark.parametrize("listen", ["", "203.0.113.1:1", "nonsense:port"])
def test_a_worker_starts_without(redis_socket: Path, tmp_path: Path, listen: str) -> None:
    made = side(tmp_path, redis_socket, listen)
    try:
        assert facts(made.settings, made.drivers, made.wire).wire is None
    finally:
        made.close()
