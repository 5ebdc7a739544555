"""Verbs about containers, with drivers that write down what they are told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hostler.contracts.driver import Host
from hostler.node.container_verbs import sandbox_delete
from hostler.node.verbs import Nothing, Server


def test_deleting_a_sandbox_lets_go_of_its_volume_when_nothing_runs_on_it(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    drivers = SimpleNamespace(
        ns=lambda name: SimpleNamespace(delete=lambda container: told.append((f"delete of {name}", container))),
        storage=lambda name: SimpleNamespace(detach=lambda volume: told.append((f"detach of {name}", volume))),
    )
    host = Host(installation="test", node="alpha", state_dir=tmp_path, libexec=tmp_path)
    server = SimpleNamespace(host=host, drivers=drivers, nudge=lambda container: told.append(("nudge", container)))
    spec = SimpleNamespace(id="c1", drivers=SimpleNamespace(ns="runc", storage="loop"))
    sandbox_delete(cast(Server, server), cast(Any, SimpleNamespace(spec=spec)), Nothing())
    assert told == [("delete of runc", "c1"), ("detach of loop", "c1"), ("nudge", "c1")]
