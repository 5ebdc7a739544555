"""Verbs about containers: volume, limits, sandbox, network."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from pydantic import Field

from hostler.contracts.driver import Host
from hostler.core.errors import Invalid
from hostler.core.limits import Limits
from hostler.core.messages import Batch
from hostler.core.names import Id
from hostler.core.specs import ContainerSpec, ExecSpec
from hostler.core.units import Rate, Size
from hostler.host import guest
from hostler.node.mobility.standstill import still_file
from hostler.node.verbs import Nothing, Payload, Server, Verb, spec_of


class SizePayload(Payload):
    """A volume's size in bytes; None: no limit."""

    size: Size | None


class LimitsPayload(Payload):
    """Limits to hold a container to."""

    limits: Limits


class RatesPayload(Payload):
    """Network rates in bit/s."""

    rate_in: Rate | None
    rate_out: Rate | None


class GracePayload(Payload):
    """Seconds that init has to obey its stop signal; 0 kills at once."""

    grace: float = Field(ge=0, le=600)


class ExecPayload(Payload):
    """A command to run inside a container, which is all that must be known of it."""

    container: Id
    ns: str
    command: ExecSpec


def remember(server: Server, spec: ContainerSpec) -> None:
    """Keep the spec on the server, so that whoever looks at the folder can tell what it is. Written atomically."""
    folder = server.host.container_dir(spec.id)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = folder / ".spec.json"
    temporary.write_text(json.dumps(spec.model_dump(mode="json"), indent=1))
    os.replace(temporary, folder / "spec.json")


def remembered(host: Host, container: str) -> ContainerSpec | None:
    """The spec that :func:`remember` kept, or None."""
    try:
        return ContainerSpec.model_validate_json((host.container_dir(container) / "spec.json").read_text())
    except FileNotFoundError:
        return None


def volume_create(server: Server, batch: Batch, _: Nothing) -> None:
    """The container's root volume, from its image, held to the plan's disk."""
    spec = spec_of(batch)
    remember(server, spec)
    server.drivers.storage(spec.drivers.storage).create(spec.id, spec.image.short, spec.limits.disk)


def volume_delete(server: Server, batch: Batch, _: Nothing) -> None:
    """Delete the volume, and the container's folder with it."""
    spec = spec_of(batch)
    server.drivers.storage(spec.drivers.storage).delete(spec.id)
    server.drivers.ns(spec.drivers.ns).forget(spec.id)


def volume_resize(server: Server, batch: Batch, payload: SizePayload) -> None:
    """Another size, live."""
    spec = spec_of(batch)
    server.drivers.storage(spec.drivers.storage).resize(spec.id, payload.size)


def limits_create(server: Server, batch: Batch, _: Nothing) -> None:
    """The container's cgroups, limits set, nobody in them."""
    spec = spec_of(batch)
    server.drivers.limits(spec.drivers.limits).create(spec.id, spec.limits, spec.account, spec.account_weight)


def limits_apply(server: Server, batch: Batch, payload: LimitsPayload) -> None:
    """Other limits, live."""
    spec = spec_of(batch)
    server.drivers.limits(spec.drivers.limits).apply(spec.id, payload.limits)


def limits_remove(server: Server, batch: Batch, _: Nothing) -> None:
    """Remove the cgroups and whatever is still in them."""
    spec = spec_of(batch)
    server.drivers.limits(spec.drivers.limits).remove(spec.id)


def sandbox_create(server: Server, batch: Batch, _: Nothing) -> dict[str, Any]:
    """Namespaces and a paused init."""
    spec = spec_of(batch)
    remember(server, spec)
    plan = server.drivers.storage(spec.drivers.storage).root_plan(spec.id)
    cgroup = server.drivers.limits(spec.drivers.limits).create(spec.id, spec.limits, spec.account, spec.account_weight)
    sandbox = server.drivers.ns(spec.drivers.ns).create(spec, plan, cgroup)
    server.nudge(spec.id)
    return {"pid": sandbox.pid, "started_at": sandbox.started_at}


def sandbox_start(server: Server, batch: Batch, _: Nothing) -> None:
    """Let init run."""
    spec = spec_of(batch)
    server.drivers.ns(spec.drivers.ns).start(spec.id)
    server.nudge(spec.id)


_ALIVE = ("running", "frozen")


def sandbox_stop(server: Server, batch: Batch, payload: GracePayload) -> dict[str, Any]:
    """Ask init to end, thawing it for that; after the grace it is killed by :func:`sandbox_delete`."""
    spec = spec_of(batch)
    ns = server.drivers.ns(spec.drivers.ns)
    state = ns.inspect(spec.id).state
    if payload.grace > 0 and state in _ALIVE:
        guest.expect_exit(server.host, spec.id)
        ns.signal(spec.id, _signal_number(spec.process.stop_signal))
        if state == "frozen":
            ns.thaw(spec.id)
        ns.wait(spec.id, payload.grace)
    obeyed = ns.inspect(spec.id).state not in _ALIVE
    return {"obeyed": obeyed}


def _signal_number(name: str) -> int:
    text = name.removeprefix("SIG")
    number = int(text) if text.isdigit() else getattr(signal, f"SIG{text}", None)
    if number is None or not 1 <= int(number) <= 64:
        raise Invalid(f"{name!r} is not a signal", hint="the image's StopSignal must be a name such as SIGTERM")
    return int(number)


def sandbox_delete(server: Server, batch: Batch, _: Nothing) -> None:
    """Kill what runs, remove the sandbox, and let go of its volume."""
    spec = spec_of(batch)
    server.drivers.ns(spec.drivers.ns).delete(spec.id)
    still_file(server.host, spec.id).unlink(missing_ok=True)
    server.drivers.storage(spec.drivers.storage).detach(spec.id)
    server.nudge(spec.id)


def sandbox_forget(server: Server, batch: Batch, _: Nothing) -> None:
    """Remove the container's folder, logs included."""
    spec = spec_of(batch)
    server.drivers.ns(spec.drivers.ns).forget(spec.id)
    server.nudge(spec.id)


def sandbox_exec(server: Server, batch: Batch, payload: ExecPayload) -> dict[str, Any]:
    """Run a command inside."""
    return server.drivers.ns(payload.ns).exec(payload.container, payload.command).model_dump(mode="json")


def network_attach(server: Server, batch: Batch, _: Nothing) -> None:
    """All links of the container, in the network namespace of its init."""
    spec = spec_of(batch)
    sandbox = server.drivers.ns(spec.drivers.ns).inspect(spec.id)
    if sandbox.pid is None:
        raise Invalid("the container's init is gone", hint="its log says why: hostler logs", code="init_gone")
    for link in spec.links:
        server.drivers.net(spec.drivers.net).attach(spec.id, link, sandbox.pid)


def network_detach(server: Server, batch: Batch, _: Nothing) -> None:
    """Remove all links and rules."""
    spec = spec_of(batch)
    server.drivers.net(spec.drivers.net).detach(spec.id)


def network_shape(server: Server, batch: Batch, payload: RatesPayload) -> None:
    """Other rates, live."""
    spec = spec_of(batch)
    server.drivers.net(spec.drivers.net).shape(spec.id, payload.rate_in, payload.rate_out)


VERBS: tuple[Verb, ...] = (
    Verb("volume.create", Nothing, volume_create),
    Verb("volume.delete", Nothing, volume_delete),
    Verb("volume.resize", SizePayload, volume_resize),
    Verb("limits.create", Nothing, limits_create),
    Verb("limits.apply", LimitsPayload, limits_apply),
    Verb("limits.remove", Nothing, limits_remove),
    Verb("sandbox.create", Nothing, sandbox_create),
    Verb("sandbox.start", Nothing, sandbox_start),
    Verb("sandbox.stop", GracePayload, sandbox_stop),
    Verb("sandbox.delete", Nothing, sandbox_delete),
    Verb("sandbox.forget", Nothing, sandbox_forget),
    Verb("sandbox.exec", ExecPayload, sandbox_exec, repeatable=False),
    Verb("network.attach", Nothing, network_attach),
    Verb("network.detach", Nothing, network_detach),
    Verb("network.shape", RatesPayload, network_shape),
)
