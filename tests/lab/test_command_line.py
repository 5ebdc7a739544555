"""The newcomer's session once more, typed: the ``hostler`` command that ``ops/up`` made, against the real kernel."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.installation import Platform
from tests.lab.machine import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

Typed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def typed(platform: Platform, tmp_path: Path) -> Iterator[Typed]:
    """Types a command line of somebody who has logged in; it must succeed unless ``status`` says otherwise."""

    def type_it(*words: str, status: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [platform.apart.lab.command, *words],
            input=stdin, capture_output=True, text=True, timeout=60,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )  # fmt: skip
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    type_it("login", platform.apart.lab.panel_url, "--token", platform.token)
    yield type_it


def test_the_session_of_the_readme(platform: Platform, typed: Typed) -> None:
    assert "web is running on" in typed("create", "web", "--image", "busybox", "--plan", "tiny", "--", "httpd", "-f", "-p", "8000", "-h", "/var/www").stdout
    assert "web" in typed("list").stdout
    web = json.loads(typed("show", "web", "--json").stdout)
    assert web["state"] == "running"
    assert typed("exec", "web", "--", "hostname").stdout == "web\n"
    assert typed("exec", "web", "--", "cat", stdin="hello").stdout == "hello"
    typed("exec", "web", "--", "sh", "-c", "exit 7", status=7)
    for address in (web["address_v4"], web["address_v6"]):
        wait_until(lambda: platform.listens(web["address_v4"]), 5)
        assert "It works" in platform.http(address)
    typed("resize", "web", "--memory", "96M", "--cpu", "0.25")
    limits = json.loads(typed("show", "web", "--json").stdout)["limits"]
    assert (limits["memory"], limits["cpu"]) == (96 << 20, 0.25)
    typed("stop", "web")
    assert json.loads(typed("show", "web", "--json").stdout)["state"] == "stopped"
    refused = typed("exec", "web", "--", "true", status=1)
    assert "is stopped" in refused.stderr and "start it first" in refused.stderr
    typed("start", "web")
    typed("restart", "web")
    assert "restart web done" in typed("events").stdout
    typed("delete", "web")
    assert json.loads(typed("list", "--json").stdout) == []


def test_output_and_mistakes(platform: Platform, typed: Typed) -> None:
    typed("create", "talker", "--image", "busybox", "--plan", "tiny", "--", "sh", "-c", "echo to out; echo to err >&2; sleep 1000")
    wait_until(lambda: len(platform.client.logs("talker").lines) == 2, 5)
    shown = typed("logs", "talker")
    assert "to out" in shown.stdout and "to err" in shown.stdout + shown.stderr
    assert "busybox" in typed("create", "x", "--image", "nonesuch", "--plan", "tiny", status=1).stderr
    assert {"alpha", "beta"} <= set(typed("node", "list").stdout.split())
    assert "hostler list" in typed("show", "nobody", status=1).stderr
