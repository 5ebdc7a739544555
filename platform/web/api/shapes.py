"""From rows to the API's models. What a tenant must not see is left out here."""

from __future__ import annotations

from typing import Any

from hostler.core.api import (
    AccountOut,
    CheckpointOut,
    EventOut,
    ImageOut,
    NodeOut,
    OperationOut,
    PlanOut,
    StepOut,
    TokenOut,
)
from hostler.core.errors import ErrorReport
from hostler.core.limits import Limits
from hostler.core.messages import DriverFact, WireFact
from hostler.core.specs import ImageConfig
from hostler.operations.steps import Step, load
from hostler.store.models import Account, Checkpoint, Event, Image, Node, Operation, Plan, Token


def account_out(account: Account) -> AccountOut:
    """An account."""
    return AccountOut(id=account.id, name=account.name, provider=account.provider, cpu_weight=account.cpu_weight, created_at=account.created_at)


def token_out(token: Token, current: str) -> TokenOut:
    """A token; ``current`` is the id of the caller's own."""
    return TokenOut(
        id=token.id, name=token.name, created_at=token.created_at, expires_at=token.expires_at, used_at=token.used_at, current=token.id == current
    )


def plan_out(plan: Plan, containers: int | None) -> PlanOut:
    """A plan."""
    return PlanOut(
        id=plan.id, name=plan.name, description=plan.description, limits=Limits.model_validate(plan.limits), drivers=plan.drivers, containers=containers
    )


def image_out(image: Image, account: Account) -> ImageOut:
    """An image as ``account`` sees it."""
    own = account.provider if image.account_id is None else image.account_id == account.id
    return ImageOut(
        id=image.id,
        name=image.name,
        own=own,
        state=image.state,
        digest=image.digest,
        driver=image.driver,
        size=image.size,
        unpacked_size=image.unpacked_size,
        config=ImageConfig.model_validate(image.config),
        created_at=image.created_at,
    )


def node_out(node: Node, containers: int) -> NodeOut:
    """A server."""
    return NodeOut(
        name=node.name,
        state=node.state,
        seen_at=node.seen_at,
        kernel=node.facts.get("kernel", ""),
        architecture=node.facts.get("architecture", ""),
        load=node.load,
        cpus=node.cpus,
        cpus_promised=round(node.cpus_promised, 6),
        memory=node.memory,
        memory_promised=node.memory_promised,
        disk=node.disk,
        disk_promised=node.disk_promised,
        disk_free=node.disk_free,
        containers=containers,
        drivers=[DriverFact.model_validate(fact) for fact in node.facts.get("drivers", [])],
        wire=WireFact.model_validate(node.facts["wire"]) if node.facts.get("wire") else None,
    )


def error_out(error: dict[str, Any] | ErrorReport | None, *, operator: bool) -> ErrorReport | None:
    """An error; of a bug, operators see the traceback and nobody else the message either."""
    if error is None:
        return None
    report = ErrorReport.model_validate(error)
    if operator or not report.bug:
        return report
    return report.model_copy(update={"traceback": None, "message": "something unexpected went wrong on the platform"})


def operation_out(operation: Operation, *, operator: bool) -> OperationOut:
    """An operation. Steps' payloads hold tickets and are never shown."""
    return OperationOut(
        id=operation.id,
        kind=operation.kind,
        account=operation.account_id,
        target_kind=operation.target_kind,
        target=operation.target_name,
        target_id=operation.target_id,
        state=operation.state,
        progress=operation.progress,
        steps=[_step_out(step, operator) for step in load(operation.steps)],
        request=_request(operation),
        result=operation.result,
        error=error_out(operation.error, operator=operator),
        waits_for=operation.waits_for,
        cancel_asked=operation.cancel_asked,
        node=operation.node_name,
        asked_by=operation.asked_by,
        reason=operation.reason,
        created_at=operation.created_at,
        started_at=operation.started_at,
        ended_at=operation.ended_at,
    )


def _step_out(step: Step, operator: bool) -> StepOut:
    return StepOut(
        name=step.name,
        node=step.node,
        state=step.state,
        weight=step.weight,
        note=step.note,
        ms=step.ms,
        error=error_out(step.error, operator=operator),
    )


def _request(operation: Operation) -> dict[str, object]:
    """The part of the arguments that says what was asked; not what the engine noted, nor a command's input and environment."""
    args = operation.args
    shown: dict[str, object] = {key: args[key] for key in ("change", "recipe", "grace") if key in args}
    shown |= {key: args[key] for key in ("checkpoint", "label", "on", "to", "methods", "allow_restart", "drop_checkpoints") if args.get(key)}
    if "command" in args:
        shown["args"] = args["command"]["args"]
    return shown


def checkpoint_out(row: Checkpoint) -> CheckpointOut:
    """A checkpoint."""
    return CheckpointOut(
        id=row.id,
        name=row.name,
        container=row.container.name,
        container_id=row.container_id,
        node=row.node.name,
        kind=row.kind,
        state=row.state,
        bytes=row.bytes,
        stored=row.stored,
        memory=row.memory,
        frozen_ms=row.frozen_ms,
        snapshot=row.snapshot,
        writer=row.writer,
        created_at=row.created_at,
    )


def event_out(event: Event) -> EventOut:
    """An event."""
    return EventOut(
        id=event.id,
        at=event.at,
        kind=event.kind,
        message=event.message,
        container=event.container_name,
        container_id=event.container_id,
        operation=event.operation_id,
        node=event.node_name,
        details=event.details,
    )
