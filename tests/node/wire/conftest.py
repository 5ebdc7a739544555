"""Two servers' wires on loopback, and a channel between them."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostler.node.wire.channel import Channel
from hostler.node.wire.wire import Wire

PATIENCE = 20.0


@dataclass
class Pair:
    """``alpha`` connects, ``beta`` accepts."""

    alpha: Wire
    beta: Wire

    @contextmanager
    def channels(self, operation: str = "op") -> Iterator[tuple[Channel, Channel]]:
        """Both ends of one channel, alpha's first. Each test thread may use either."""
        accepted: queue.Queue[Channel] = queue.Queue()
        over = threading.Event()

        def serve(channel: Channel) -> None:
            accepted.put(channel)
            over.wait(60)

        ticket = self.beta.expect(operation, self.alpha.identity.fingerprint, serve)
        try:
            with self.alpha.connect(self.beta.fact, ticket) as near:
                yield near, accepted.get(timeout=PATIENCE)
        finally:
            over.set()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    alpha = Wire(tmp_path / "alpha", "alpha", "127.0.0.1:0")
    try:
        beta = Wire(tmp_path / "beta", "beta", "127.0.0.1:0")
        try:
            yield Pair(alpha, beta)
        finally:
            beta.close()
    finally:
        alpha.close()


@contextmanager
def aside(work: Callable[[], object]) -> Iterator[list[BaseException]]:
    """``work`` in a thread of its own, which must have ended with the block; what it raised."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body, name="aside")
    thread.start()
    try:
        yield failures
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it hangs"


def descriptors() -> set[str]:
    """This process's open descriptors and what they are."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # the one that the list itself was read with
            continue
    return found
