"""What a server can be asked without an operation: it reads, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from hostler.core.errors import Invalid, NotFound
from hostler.core.names import Id
from hostler.core.specs import DriverNames
from hostler.node import mobility_questions
from hostler.node.logs import LogStore
from hostler.node.verbs import Payload, Server


class LogsQuestion(Payload):
    """A container's output: the last ``tail`` lines, or what came after ``cursor``."""

    container: Id
    cursor: str | None = None
    tail: int | None = Field(default=None, ge=0, le=100_000)
    max_bytes: int = Field(default=256 << 10, ge=1024, le=1 << 20)


class UsageQuestion(Payload):
    """What a container uses."""

    container: Id
    drivers: DriverNames


def logs(server: Server, question: LogsQuestion) -> dict[str, Any]:
    """Lines of a container's output and the cursor that follows them."""
    folder = server.host.container_dir(question.container)
    page = LogStore(folder / "log").read(tail=question.tail, cursor=question.cursor, max_bytes=question.max_bytes)
    return page.model_dump(mode="json")


def usage(server: Server, question: UsageQuestion) -> dict[str, Any]:
    """Counters of a container, from all its drivers. Of a stopped one there is only the disk's."""
    drivers = question.drivers
    volume = server.drivers.storage(drivers.storage).usage(question.container)
    try:
        seen = server.drivers.limits(drivers.limits).usage(question.container)
        link = server.drivers.net(drivers.net).counters(question.container)
    except NotFound:
        return {"running": False, "disk": volume.used}
    counted = seen.model_copy(update={"disk": volume.used, "net_in_bytes": link.in_bytes, "net_out_bytes": link.out_bytes})
    return {"running": True, **counted.model_dump(mode="json")}


QUESTIONS: dict[str, tuple[type[Payload], Callable[[Server, Any], dict[str, Any]]]] = {
    "container.logs": (LogsQuestion, logs),
    "container.usage": (UsageQuestion, usage),
    **mobility_questions.QUESTIONS,
}


def answer(server: Server, question: str, args: dict[str, Any]) -> dict[str, Any]:
    """Answer a question by name. Raises :class:`Invalid` for one that is not known."""
    known = QUESTIONS.get(question)
    if known is None:
        raise Invalid(f"this server does not know the question {question}", hint="bring all servers to one version", code="unknown_question")
    model, act = known
    return act(server, model.model_validate(args))
