"""What a suspend or a move would meet: asked of the servers concerned, with no transaction open meanwhile, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hostler.core.api import MigrateCheck, MismatchOut, ObstacleOut, SuspendCheck
from hostler.core.errors import HostlerError
from hostler.core.lifecycle import State, check_allowed
from hostler.mobility.methods import Choice, choose
from hostler.operations import forecast, mobility_steps, moving, promises
from hostler.operations.candidates import candidate
from hostler.operations.container_spec import container_spec
from hostler.operations.requests import find_container
from hostler.placement.choose import refusal
from hostler.store.models import Account
from hostler.web.panel import Panel


@dataclass(frozen=True)
class _Place:
    """A container as its servers are asked about it. ``against``: what the store alone has against a move."""

    spec: dict[str, Any]
    state: State
    source: str
    target: str = ""
    against: tuple[MismatchOut, ...] = ()


def check_suspend(panel: Panel, account: Account, name: str) -> SuspendCheck:
    """What a suspend would meet. Raises :class:`Conflict` for one that does not run, :class:`Unavailable` for a silent server."""
    with panel.store.read() as session:
        container = find_container(session, account, name)
        check_allowed("suspend", State(container.state), container.name)
        if container.node is None:
            raise AssertionError(f"container {container.id} has no server")
        mobility_steps.check_online(container.node)
        spec, node = container_spec(session, container, panel.provider).model_dump(mode="json"), container.node.name
    found = panel.broker.ask(node, "checkpoint.examine", {"spec": spec})
    obstacles = [ObstacleOut.model_validate(one) for one in found["obstacles"]]
    memory = int(found.get("memory", 0))
    return SuspendCheck(possible=not obstacles, obstacles=obstacles, memory=memory, frozen_ms=None if obstacles else forecast.frozen_ms("suspend", memory))


def check_migrate(panel: Panel, account: Account, name: str, to: str | None, methods: Sequence[str], *, allow_restart: bool) -> MigrateCheck:
    """What a move would meet, and which it would be; ``methods``: only these (empty: all). Raises as :func:`hostler.operations.moving.choose_route` does, in words."""
    place = _place(panel, account, name, to)
    running = place.state == State.RUNNING
    found = panel.broker.ask(place.source, "checkpoint.examine", {"spec": place.spec}) if running else {"obstacles": []}
    fit = panel.broker.ask(place.target, "move.fit", {"spec": place.spec, "facts": found.get("facts") or {}})
    used = panel.broker.ask(place.source, "container.usage", {"container": place.spec["id"], "drivers": place.spec["drivers"]})
    obstacles = [ObstacleOut.model_validate(one) for one in found["obstacles"]]
    mismatches = [*place.against, *(MismatchOut.model_validate(one) for one in fit["mismatches"])]
    memory, disk = int(found.get("memory", 0)), int(used.get("disk", 0))
    able = [method for method in fit.get("methods", ()) if method in mobility_steps.LIVE]
    choice = choose(memory, methods or mobility_steps.LIVE, able, able) if able else None
    method = _method(place, obstacles, mismatches, choice, allow_restart)
    travels = disk if method in (None, "files", "restart") else memory + disk
    return MigrateCheck(
        possible=method is not None, source=place.source, target=place.target, method=method, why=_why(method, choice, fit, obstacles, mismatches),
        obstacles=obstacles, mismatches=mismatches, memory=memory, bytes=travels, frozen_ms=forecast.frozen_ms(method, memory) if method else None,
    )  # fmt: skip


def _place(panel: Panel, account: Account, name: str, to: str | None) -> _Place:
    with panel.store.read() as session:
        container = find_container(session, account, name)
        state = State(container.state)
        check_allowed("migrate", state, container.name)
        wanted, ratio = promises.held(container), panel.provider.overcommit
        route = moving.choose_route(session, container, to, ratio, wanted)
        against: list[MismatchOut] = []
        no = refusal(candidate(route.target), wanted, ratio)
        if no is not None:
            against.append(MismatchOut(message=f"server {route.target.name} {no}", remedy="choose another server, or make room on this one"))
        against += _refused(lambda: mobility_steps.side(route.source))
        against += _refused(lambda: mobility_steps.side(route.target))
        against += _refused(lambda: moving.check_sends(route, container))
        against += _refused(lambda: moving.drop_checkpoints(session, container, route.source.name, allowed=False), blocks=False)
        spec = container_spec(session, container, panel.provider).model_dump(mode="json")
        return _Place(spec, state, route.source.name, route.target.name, tuple(against))


def _refused(check: Callable[[], object], *, blocks: bool = True) -> list[MismatchOut]:
    """What a check of the operation's own refuses, in its words."""
    try:
        check()
    except HostlerError as error:
        return [MismatchOut(code=error.stable_code, message=error.message, remedy=error.hint, blocks=blocks)]
    return []


def _method(place: _Place, obstacles: list[ObstacleOut], mismatches: list[MismatchOut], choice: Choice | None, allow_restart: bool) -> str | None:
    unfit = any(mismatch.blocks for mismatch in mismatches)
    if any(mismatch.blocks and not mismatch.only_memory for mismatch in mismatches):
        return None
    if place.state != State.RUNNING:
        return "files"
    if not obstacles and not unfit and choice is not None:
        return choice.method.value
    return "restart" if allow_restart else None


def _why(
    method: str | None, choice: Choice | None, fit: dict[str, Any], obstacles: list[ObstacleOut], mismatches: list[MismatchOut]
) -> str:
    """The servers' own words where they would take the best that both can; the chooser's where there is so little memory that another is as fast."""
    if choice is not None and method == choice.method.value:
        best = fit["methods"][0] == method
        return str(fit["why"]) if best and fit.get("why") else choice.why
    if method is not None:
        return forecast.WHY[method]
    reasons = [one.message for one in obstacles] + [one.message for one in mismatches if one.blocks]
    return "; ".join(reasons) or "these servers have no method in common"
