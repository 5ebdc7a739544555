"""A container's own programs around a checkpoint: run in it when they are there, told why, and not waited for without end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hostler.core.errors import Conflict
from hostler.core.specs import ContainerSpec
from hostler.node.mobility import hooks
from hostler.node.verbs import Server
from tests.plugins.ns.world import World

pytestmark = pytest.mark.lab


def server_of(world: World) -> Server:
    """With nothing but the ns driver."""
    return cast(Server, SimpleNamespace(host=world.host, drivers=SimpleNamespace(ns=lambda name: world.ns)))


def write(world: World, spec: ContainerSpec, path: str, script: str, mode: int = 0o755) -> None:
    """A program in the container's files."""
    file = world.root_of(spec) / path.lstrip("/")
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(mode)


def test_a_hook_is_run_as_root_inside_and_told_why(world: World) -> None:
    spec, server = world.up("sleep", "600"), server_of(world)
    hooks.before(server, spec, "suspend")
    assert hooks.after(server, spec, "clone") is None, "there is none"
    for path in (hooks.BEFORE, hooks.AFTER):
        write(world, spec, path, f'echo "$HOSTLER_EVENT $(id -u) $(hostname)" > /tmp/{Path(path).name}')
    hooks.before(server, spec, "suspend")
    assert (world.root_of(spec) / "tmp/before-checkpoint").read_text() == f"suspend 0 {spec.name}\n"
    told = hooks.after(server, spec, "clone")
    assert told is not None and told["failed"] == "" and told["program"] == hooks.AFTER
    assert (world.root_of(spec) / "tmp/after-restore").read_text() == f"clone 0 {spec.name}\n"
    assert hooks.after(server, spec, None) is None, "not due"


def test_a_failure_before_is_an_error_and_afterwards_a_report(world: World) -> None:
    spec, server = world.up("sleep", "600"), server_of(world)
    for path in (hooks.BEFORE, hooks.AFTER):
        write(world, spec, path, "echo first; echo not now >&2; exit 3")
    with pytest.raises(Conflict, match="before-checkpoint in container .* failed with status 3: not now") as error:
        hooks.before(server, spec, "checkpoint")
    assert error.value.stable_code == "hook_failed" and error.value.hint
    told = hooks.after(server, spec, "restore")
    assert told is not None and told["failed"] == "failed with status 3: not now"


def test_one_that_does_not_end_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "PATIENCE", 0.3)
    spec, server = world.up("sleep", "600"), server_of(world)
    write(world, spec, hooks.BEFORE, "sleep 77")
    with pytest.raises(Conflict, match="took longer"):
        hooks.before(server, spec, "migrate")
    assert "sleep 77" not in world.sh(spec, "ps -o args").stdout


def test_what_is_no_program_of_its_own_is_not_run(world: World, tmp_path: Path) -> None:
    spec, server = world.up("sleep", "600"), server_of(world)
    write(world, spec, hooks.BEFORE, "exit 1", 0o644)
    hooks.before(server, spec, "checkpoint")
    file = world.root_of(spec) / hooks.BEFORE.lstrip("/")
    file.unlink()
    file.mkdir(0o755)
    hooks.before(server, spec, "checkpoint")
    file.rmdir()
    outside = tmp_path / "outside"
    outside.write_text("#!/bin/sh\nexit 1\n")
    outside.chmod(0o755)
    file.symlink_to(outside)  # leads nowhere inside
    hooks.before(server, spec, "checkpoint")
    file.unlink()
    file.symlink_to("/proc/self/exe")  # on another file system, and magic
    hooks.before(server, spec, "checkpoint")


def test_a_frozen_one_has_no_say(world: World) -> None:
    spec, server = world.up("sleep", "600"), server_of(world)
    write(world, spec, hooks.BEFORE, "exit 1")
    world.ns.freeze(spec.id)
    hooks.before(server, spec, "checkpoint")
    world.ns.thaw(spec.id)


def test_why_it_comes_back_is_known_until_it_is_let_go(world: World) -> None:
    server = server_of(world)
    assert hooks.expected(server, "c0ffee") is None
    (world.host.state_dir / "revivals/c0ffee").mkdir(parents=True)
    hooks.expect(server, "c0ffee", "clone")
    assert hooks.expected(server, "c0ffee") == "clone"
