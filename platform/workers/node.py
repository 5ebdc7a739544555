"""A server's Celery app: its own queue, run as root with a thread pool.

    HOSTLER_NODE=alpha celery -A hostler.workers.node:app worker -Q node.alpha --pool threads -c 8
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import structlog
from celery.signals import setup_logging, worker_ready, worker_shutdown

from hostler import log
from hostler.broker import celery_app
from hostler.core.errors import ErrorReport
from hostler.core.messages import Batch, Heartbeat
from hostler.node.questions import answer
from hostler.settings import NodeSettings
from hostler.workers.node_side import NodeSide

settings = NodeSettings()
app = celery_app(f"hostler-node-{settings.node}", settings)
logger = structlog.get_logger()

_side: NodeSide | None = None


def side() -> NodeSide:
    """This process's node side, made when the worker is ready."""
    global _side
    if _side is None:
        _side = NodeSide(settings)
    return _side


@setup_logging.connect
def _logging(**_: Any) -> None:
    log.configure(settings, f"node-{settings.node}")
    side()  # drivers are set up before the first message is taken


@worker_ready.connect
def _ready(**_: Any) -> None:
    side().greet()


@worker_shutdown.connect
def _closing(**_: Any) -> None:
    side().close()


@app.task(name="node.batch")
def batch(message: dict[str, Any]) -> None:
    """Run steps of an operation."""
    side().runner.run(Batch.model_validate(message))


@app.task(name="node.ping")
def ping(sent_at: float) -> None:
    """Answer, through the same queues that work comes and goes by."""
    beat: Heartbeat = side().heartbeat(datetime.fromtimestamp(sent_at, UTC))
    side().broker.heartbeat(beat)


@app.task(name="node.greet")
def greet() -> None:
    """Introduce this worker again: the control side does not know it."""
    side().greet()


@app.task(name="node.ask")
def ask(key: str, question: str, args: dict[str, Any]) -> None:
    """Answer a question."""
    try:
        result = answer(side().server, question, args)
    except Exception as error:  # an outer edge: whoever asked is told
        report = ErrorReport.of(error)
        if report.bug:
            logger.error("question failed", question=question, traceback=report.traceback)
        side().broker.answer(key, None, report)
        return
    side().broker.answer(key, result, None)
