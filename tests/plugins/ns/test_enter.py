"""The command line of hostler-enter and its report, by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hostler.core.errors import Conflict, HostFailure, Invalid
from hostler.host.pidfd import Identity
from hostler_plugins.ns import enter

PROCESS: dict[str, Any] = {
    "args": ["/.hostler/init", "-x", "--", "echo", ""],
    "env": ["PASSWORD=secret"],
    "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SETFCAP"], "effective": ["CAP_SETFCAP", "CAP_CHOWN"], "permitted": ["CAP_CHOWN", "CAP_SETFCAP"]},
    "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 9}],
    "oomScoreAdj": 200,
}


def options(process: dict[str, Any], cgroups: dict[str, Path], group: Path) -> str:
    init = Identity(7, 1234)
    return " ".join(enter.options(process, caller=5, init=init, group=group, cgroups=cgroups, seccomp=Path("/f.bpf")))


def test_options() -> None:
    cgroups = {"freezer": Path("/f/c"), "pids": Path("/p/c"), "memory": Path("/m/c")}
    said = options(PROCESS, cgroups, Path("/p/c/exec-1"))
    assert said.startswith("--caller 5 --init 7 1234 --group /p/c/exec-1 --join /p/c/exec-1 --join /m/c --join /f/c --caps 80000001 ")
    assert said.endswith("--oom 200 --seccomp /f.bpf --rlimit 4 0 9")
    assert "secret" not in said


def test_sets_of_capabilities_that_differ_are_refused() -> None:
    others: list[dict[str, list[str]]] = [{"inheritable": ["CAP_CHOWN"]}, {"effective": []}]
    for other in others:
        with pytest.raises(HostFailure, match="capability sets"):
            options(PROCESS | {"capabilities": PROCESS["capabilities"] | other}, {}, Path("/g"))


def test_words() -> None:
    assert enter.words(PROCESS) == b"/.hostler/init\0-x\0--\0echo\0\0PASSWORD=secret\0"


@pytest.mark.parametrize(
    ("report", "kind", "code", "words"),
    [
        ("3 cannot join x: No such process\n", Conflict, "wrong_state", "just stopped"),
        ("7 cannot run x: Argument list too long\n", Invalid, "not_started", "too long"),
        ("11 cannot fork in the container: …\n", HostFailure, "runtime_failed", "cannot fork in"),
        ("what?", HostFailure, "runtime_failed", "what"),
    ],
)
def test_failure(report: str, kind: type[Exception], code: str, words: str) -> None:
    found = enter.failure(report, "c0")
    assert isinstance(found, kind)
    assert found is not None and found.stable_code == code and words in found.message


def test_no_failure() -> None:
    assert enter.failure("", "c0") is None
