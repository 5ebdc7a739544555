"""Clones through a whole installation: warm, beside their original, with hooks, limits, logs and commands of their own."""

from __future__ import annotations

import socket
import time

import pytest

from hostler.core.api import OperationOut
from hostler.node.mobility import hooks
from tests.lab.installation import Platform
from tests.lab.machine import wait_until
from tests.lab.test_memory import counter

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

#: Both hooks write down why they were called.
HOOKS = (
    "mkdir -p /etc/hostler; for hook in before-checkpoint after-restore; do "
    "printf '#!/bin/sh\\necho \"$HOSTLER_EVENT\" >>/srv/events\\n' >/etc/hostler/$hook; chmod 755 /etc/hostler/$hook; done"
)


def first_answer(address: str, patience: float = 5) -> str:
    """Of a counter, as soon as it takes a connection."""
    with socket.create_connection((address, 8000), timeout=patience) as connection:
        connection.sendall(b"next\n")
        return connection.recv(100).decode()


def test_three_clones_of_one_checkpoint_answer_beside_their_original(platform: Platform) -> None:
    web = counter(platform, "web")
    platform.shell("web", f"{HOOKS}; echo warm >/dev/shm/memory")
    checkpoint = str(platform.done(platform.client.checkpoint("web")).request["checkpoint"])
    assert platform.shell("web", "cat /srv/events") == "checkpoint\n"
    took = []
    for name in ("one", "two", "three"):
        asked = time.monotonic()
        done = platform.done(platform.client.clone("web", checkpoint, name))
        twin = platform.client.container(name)
        assert first_answer(str(twin.address_v4)) == "1\n"
        took.append((round((time.monotonic() - asked) * 1000), {step.name: step.ms for step in done.steps}))
        assert platform.shell(name, "hostname; cat /etc/hostname /dev/shm/memory /srv/events") == f"{name}\n{name}\nwarm\ncheckpoint\nclone\n"
        assert platform.shell(name, "ip -4 addr show eth0").count(str(twin.address_v4)) == 1
        assert platform.init(twin).identity.alive()
    print("from the request to the first answer, in ms:", took)
    assert len({platform.client.container(name).address_v4 for name in ("web", "one", "two", "three")}) == 4
    assert first_answer(str(web.address_v4)) == "1\n"
    platform.shell("one", "echo told >/proc/1/fd/1")
    wait_until(lambda: "told" in platform.client.logs("one").model_dump_json(), 5)
    platform.done(platform.client.suspend("two"))
    platform.done(platform.client.resume("two"))
    assert platform.shell("two", "cat /srv/events") == "checkpoint\nclone\nsuspend\nresume\n"
    moved = platform.done(platform.client.migrate("three"))
    assert _hook(moved)["failed"] == "" and platform.shell("three", "cat /srv/events") == "checkpoint\nclone\nmigrate\nmigrate\n"
    platform.shell("web", f"printf '#!/bin/sh\\necho oh >&2; exit 3\\n' >{hooks.AFTER}")
    broken = str(platform.done(platform.client.checkpoint("web")).request["checkpoint"])
    restored = platform.done(platform.client.restore("web", broken))
    assert _hook(restored)["failed"] == "failed with status 3: oh" and platform.client.container("web").state == "running"
    platform.done(platform.client.restore("web", checkpoint))
    assert platform.shell("web", "cat /srv/events") == "checkpoint\nrestore\n"


def test_a_hook_that_fails_keeps_it_running(platform: Platform) -> None:
    counter(platform, "web")
    platform.shell("web", f"mkdir -p /etc/hostler; printf '#!/bin/sh\\necho not now >&2; exit 1\\n' >{hooks.BEFORE}; chmod 755 {hooks.BEFORE}")
    failed = platform.failed(platform.client.suspend("web"), "hook_failed")
    assert failed.error is not None and "not now" in failed.error.message
    assert platform.client.container("web").state == "running"


def _hook(operation: OperationOut) -> dict[str, str]:
    """What an operation tells of the hook that it ran."""
    found = (operation.result or {})["hook"]
    assert isinstance(found, dict)
    return found
