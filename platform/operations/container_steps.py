"""The steps that operations on containers are made of. Pure: a spec in, steps out.

Bringing up and taking down mirror each other; every step that makes something names the verb that removes it.
"""

from __future__ import annotations

from hostler.core.limits import Limits
from hostler.operations.steps import Step, StepState


def placed(node: str, reasons: dict[str, str]) -> Step:
    """The record of a placement that was decided in the operation's first transaction."""
    note = f"{node}: {reasons.get(node, 'it lives there')}"
    others = "; ".join(f"{name} {reason}" for name, reason in sorted(reasons.items()) if name != node)
    return Step(name="place", state=StepState.DONE, note=f"{note}. {others}" if others else note, ms=0)


def make_volume(node: str) -> list[Step]:
    """The image unpacked on the server, and the container's root volume made from it."""
    return [
        Step(name="image", node=node, verb="image.ensure", weight=2, note="unpacked once per server, then shared"),
        Step(name="volume", node=node, verb="volume.create", undo="volume.delete"),
    ]


def bring_up(node: str) -> list[Step]:
    """From a volume to a running container. The network comes between create and start: its namespace is made by create."""
    return [
        Step(name="limits", node=node, verb="limits.create", undo="limits.remove"),
        Step(name="sandbox", node=node, verb="sandbox.create", undo="sandbox.delete", weight=2),
        Step(name="network", node=node, verb="network.attach", undo="network.detach"),
        Step(name="start", node=node, verb="sandbox.start"),
    ]


def take_down(node: str, grace: float) -> list[Step]:
    """From running to nothing but the volume. ``grace``: seconds for init to obey before it is killed."""
    return [
        Step(name="stop", node=node, verb="sandbox.stop", payload={"grace": grace}, weight=3),
        Step(name="network", node=node, verb="network.detach"),
        Step(name="sandbox", node=node, verb="sandbox.delete"),
        Step(name="limits", node=node, verb="limits.remove"),
    ]


def take_down_to_move(node: str, grace: float) -> list[Step]:
    """The same, and each step's undo brings it up again: undone backwards, they are those of :func:`bring_up`."""
    undos = {"sandbox.stop": "sandbox.start", "network.detach": "network.attach", "sandbox.delete": "sandbox.create", "limits.remove": "limits.create"}
    return [step.model_copy(update={"undo": undos[step.verb]}) for step in take_down(node, grace)]


def remove_volume(node: str) -> list[Step]:
    """What is left of a container that was taken down."""
    return [
        Step(name="volume", node=node, verb="volume.delete"),
        Step(name="folder", node=node, verb="sandbox.forget"),
    ]


def resize(node: str, old: Limits, new: Limits, running: bool) -> list[Step]:
    """Only what differs, disk first as it is refused most often; each step's undo sets the old value."""
    steps: list[Step] = []
    if old.disk != new.disk:
        steps.append(
            Step(
                name="volume", node=node, verb="volume.resize", payload={"size": new.disk}, undo="volume.resize", undo_payload={"size": old.disk}
            )
        )
    network = {"disk", "rate_in", "rate_out"}
    if running and old.model_dump(exclude=network) != new.model_dump(exclude=network):
        steps.append(
            Step(
                name="limits",
                node=node,
                verb="limits.apply",
                payload={"limits": new.model_dump(mode="json")},
                undo="limits.apply",
                undo_payload={"limits": old.model_dump(mode="json")},
            )
        )
    if running and (old.rate_in, old.rate_out) != (new.rate_in, new.rate_out):
        steps.append(
            Step(
                name="network",
                node=node,
                verb="network.shape",
                payload={"rate_in": new.rate_in, "rate_out": new.rate_out},
                undo="network.shape",
                undo_payload={"rate_in": old.rate_in, "rate_out": old.rate_out},
            )
        )
    return steps
