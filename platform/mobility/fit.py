"""Whether a container could move to a server, and how: pure, from what both servers say beforehand."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from hostler.contracts.driver import Lack
from hostler.core.messages import DriverFact
from hostler.core.specs import ContainerSpec, Spec
from hostler.core.units import format_size
from hostler.mobility.compat import HostFacts, version
from hostler.mobility.methods import Choice, Method, choose

#: Features named in a sentence; the rest is counted.
_NAMED = 8
_KEEP = "only its memory would be lost: hostler migrate --allow-restart stops, copies and starts it"


class ServerFacts(Spec):
    """What a server says of itself to the other side of a move. ``methods``: why the server cannot take part in one; empty: it can."""

    host: HostFacts
    methods: dict[str, str] = {}


class Leaving(ServerFacts):
    """The server that a container leaves. Bytes of its memory and its volume."""

    memory: int = Field(default=0, ge=0)
    disk: int | None = Field(default=None, ge=0)
    sends: bool = True
    """The storage driver sends volumes."""


class Place(ServerFacts):
    """The server that it would come to."""

    drivers: tuple[DriverFact, ...]
    """All that are there, usable or not."""
    state: str = "absent"
    """Of the very container there."""
    wire: bool = True
    receives: bool = True
    """The storage driver receives volumes."""
    image: bool = True
    """The container's image is unpacked there."""
    memory: int | None = Field(default=None, ge=0, description="bytes available")
    pool: int | None = Field(default=None, ge=0, description="bytes free for volumes")
    links: tuple[Lack, ...] = ()
    """What the server lacks for the container's addresses to be used there after they were on another."""


@dataclass(frozen=True)
class Misfit:
    """One reason against a move, or a warning where it does not block. ``code`` is stable.

    ``only_memory``: it blocks none but the methods that keep the container's memory."""

    code: str
    message: str
    remedy: str
    blocks: bool = True
    only_memory: bool = False


def misfits(spec: ContainerSpec, leaving: Leaving | None, place: Place) -> list[Misfit]:
    """All reasons, those that block first. ``leaving`` is None for a container that does not run: then its memory is no matter."""
    found = [*_connection(spec, leaving, place), *_drivers(spec, place), *_volume(spec, leaving, place), *_links(spec, place)]
    if leaving is not None:
        found += [*_machine(leaving.host, place.host), *_kernel(leaving.host, place.host), *_writer(leaving.host, place.host), *_memory(leaving, place)]
    return sorted(found, key=lambda misfit: (not misfit.blocks, misfit.only_memory))


def methods(leaving: Leaving, place: Place) -> list[str]:
    """The ways that both servers can go, the one that a move would take first."""
    chosen = _choice(leaving, place)
    able = [method.value for method in Method if not _against(method, leaving, place)]
    return sorted(able, key=lambda method: chosen is None or method != chosen.method.value)


def why(leaving: Leaving, place: Place) -> str:
    """Why the first of them, in words; empty where there is none."""
    chosen = _choice(leaving, place)
    if chosen is None or _against(chosen.method, leaving, place):
        return ""
    others = [f"{method.value.replace('_', '-')} is not possible: {said}" for method in Method if (said := _against(method, leaving, place))]
    return "; ".join([chosen.why, *others])


def _choice(leaving: Leaving, place: Place) -> Choice | None:
    here, there = ([method for method in Method if side.methods.get(method) == ""] for side in (leaving, place))
    return choose(leaving.memory, list(Method), here, there)


def _against(method: Method, leaving: Leaving, place: Place) -> str:
    """Empty where nothing is. To keep track of what changes is the source's alone."""
    unknown = "it does not know the method"
    needed = Method.STOP_COPY if method is Method.PRE_COPY else method
    reasons = {leaving.host.node: leaving.methods.get(method, unknown), place.host.node: place.methods.get(needed, unknown)}
    return "; ".join(f"on server {node} {reason}" for node, reason in reasons.items() if reason)


def _connection(spec: ContainerSpec, leaving: Leaving | None, place: Place) -> list[Misfit]:
    node, found = place.host.node, []
    if not place.wire:
        found.append(Misfit("no_wire", f"other servers cannot connect to server {node}", "set HOSTLER_NODE_WIRE_LISTEN on it and restart its worker"))
    if place.state in ("created", "running", "frozen"):
        found.append(
            Misfit("already_there", f"container {spec.name} is {place.state} on server {node} already", "the store and the servers disagree: see hostler audit")
        )
    if leaving is not None and not methods(leaving, place) and leaving.methods:
        found.append(Misfit("no_method", f"its memory cannot move: {_against(Method.STOP_COPY, leaving, place)}", _KEEP, only_memory=True))
    return found


def _drivers(spec: ContainerSpec, place: Place) -> list[Misfit]:
    """A container keeps its drivers for life."""
    found = []
    for group in ("ns", "net", "storage", "limits"):
        name = str(getattr(spec.drivers, group))
        fact = next((one for one in place.drivers if (one.group, one.name) == (group, name)), None)
        if fact is None or not fact.usable:
            said = f": {fact.problem}" if fact is not None and fact.problem else ""
            found.append(
                Misfit("driver", f"server {place.host.node} has no usable {group} driver {name}{said}", "choose another server, or mend the driver there: hostler doctor")
            )
    return found


def _volume(spec: ContainerSpec, leaving: Leaving | None, place: Place) -> list[Misfit]:
    found, storage, node = [], spec.drivers.storage, place.host.node
    if not place.receives or (leaving is not None and not leaving.sends):
        found.append(Misfit("storage", f"storage driver {storage} cannot send volumes between servers", "make the container with one that can, such as btrfs: hostler plugins"))
    if place.pool is not None and leaving is not None and leaving.disk is not None and leaving.disk > place.pool:
        found.append(
            Misfit("room", f"its files take {format_size(leaving.disk)}; the volumes of server {node} have {format_size(place.pool)} left", "free disk there, or take another server")
        )
    if not place.image:
        found.append(Misfit("image", f"image {spec.image.short} is not on server {node} yet", "nothing to do: it is fetched before anything moves", blocks=False))
    return found


def _links(spec: ContainerSpec, place: Place) -> list[Misfit]:
    said = f"the addresses of {spec.name} cannot move to server {place.host.node}, which lacks"
    return [Misfit("address", f"{said} {lack.what}", lack.remedy, lack.blocks) for lack in place.links]


def _machine(source: HostFacts, target: HostFacts) -> list[Misfit]:
    if source.architecture != target.architecture:
        return [Misfit("architecture", f"the container runs on {source.architecture}; server {target.node} is {target.architecture}", f"take a server of {source.architecture}")]
    missing = sorted(source.cpu_features - target.cpu_features)
    if not missing:
        return []
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return [
        Misfit(
            "cpu_features", f"the processor of server {target.node} lacks what the container's programs may have found and use: {', '.join(missing[:_NAMED])}{more}",
            f"take a server with a processor as new as that of {source.node}; {_KEEP}", only_memory=True,
        )
    ]


def _kernel(source: HostFacts, target: HostFacts) -> list[Misfit]:
    has, there = version(source.kernel), version(target.kernel)
    if has is None or there is None:
        unread = source.kernel if has is None else target.kernel
        return [Misfit("kernel_unknown", f"{unread!r} is no kernel release that can be compared", "compare the two kernels by hand", blocks=False)]
    if there[:2] >= has[:2]:
        return []
    return [
        Misfit(
            "kernel", f"server {target.node} runs Linux {target.kernel}, older than the {source.kernel} of {source.node}",
            f"take a server with Linux {has[0]}.{has[1]} or newer; {_KEEP}", blocks=there[0] < has[0], only_memory=True,
        )
    ]


def _writer(source: HostFacts, target: HostFacts) -> list[Misfit]:
    """Who dumps on the one server must be there to restore on the other."""
    found = []
    for name, wrote in sorted(source.drivers.items()):
        there = target.drivers.get(name)
        if there is None:
            found.append(Misfit("checkpoint_driver", f"server {target.node} has no working checkpoint driver {name}", f"see what hostler doctor says there; {_KEEP}", only_memory=True))
            continue
        old, new = version(there), version(wrote)
        if old is None or new is None:
            found.append(Misfit("driver_unknown", f"versions {wrote!r} and {there!r} of {name} cannot be compared", "compare them by hand", blocks=False))
        elif old < new:
            remedy = f"install {name} {wrote} or newer there; {_KEEP}"
            found.append(Misfit("driver_version", f"server {target.node} has {name} {there}, older than the {wrote} of {source.node}", remedy, only_memory=True))
    return found


def _memory(leaving: Leaving, place: Place) -> list[Misfit]:
    found, needed, node = [], leaving.memory, place.host.node
    if place.memory is not None and needed > place.memory:
        found.append(Misfit("memory", f"it uses {format_size(needed)} of memory; server {node} has {format_size(place.memory)} left", "take another server, or empty this one"))
    if place.host.free is not None and needed > place.host.free:
        found.append(
            Misfit(
                "room", f"its memory of {format_size(needed)} passes through the disk; server {node} has {format_size(place.host.free)} left for it",
                f"free disk below its state folder, or take another server; {_KEEP}", only_memory=True,
            )
        )
    return found
