"""The control worker's Celery app: queue ``control``, run with a thread pool, unprivileged.

    celery -A hostler.workers.control:app worker -Q control --pool threads -c 4
    celery -A hostler.workers.control:app beat
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery.signals import beat_init, setup_logging, worker_init, worker_ready

from hostler import log
from hostler.broker import CONTROL_QUEUE, celery_app
from hostler.core.errors import Unavailable
from hostler.core.messages import ContainerEvent, Heartbeat, Hello, Report
from hostler.settings import ControlSettings

if TYPE_CHECKING:
    from hostler.workers.control_side import ControlSide

settings = ControlSettings()
app = celery_app("hostler-control", settings)

#: How often leases are looked at, and servers pinged.
TICK = timedelta(seconds=2)
PING = timedelta(seconds=5)

app.conf.beat_schedule = {
    "tick": {"task": "control.tick", "schedule": TICK, "options": {"queue": CONTROL_QUEUE, "expires": TICK.total_seconds()}},
    "ping": {"task": "control.ping", "schedule": PING, "options": {"queue": CONTROL_QUEUE, "expires": PING.total_seconds()}},
    "clean": {"task": "control.clean", "schedule": timedelta(hours=1), "options": {"queue": CONTROL_QUEUE, "expires": 600}},
    "sweep": {"task": "control.sweep", "schedule": timedelta(minutes=5), "options": {"queue": CONTROL_QUEUE, "expires": 300}},
}

#: While the store or the broker is away, news is tried again for about a minute.
PATIENT = {"autoretry_for": (Unavailable,), "retry_backoff": 1, "retry_backoff_max": 10, "max_retries": 9}

_side: ControlSide | None = None


def side() -> ControlSide:
    """This process's control side, opened at first use: after any fork, and never in beat, which spares it half its memory."""
    global _side
    if _side is None:
        from hostler.workers.control_side import ControlSide

        _side = ControlSide(settings)
    return _side


@setup_logging.connect
def _logging(**_: Any) -> None:
    log.configure(settings, "control")


@worker_init.connect
def _worker_started(**_: Any) -> None:
    side()


@worker_ready.connect
def _worker_ready(**_: Any) -> None:
    side().engine.control_restarted()


@beat_init.connect
def _beat_started(**_: Any) -> None:
    log.configure(settings, "beat")


@app.task(name="control.advance")
def advance(operation: str) -> None:
    """Look at an operation."""
    side().engine.advance(operation)


@app.task(name="control.report", **PATIENT)
def report(message: dict[str, Any]) -> None:
    """A server's word on a batch."""
    side().engine.report(Report.model_validate(message))


@app.task(name="control.hello", **PATIENT)
def hello(message: dict[str, Any]) -> None:
    """A node worker has started."""
    side().hello(Hello.model_validate(message))


@app.task(name="control.heartbeat")
def heartbeat(message: dict[str, Any]) -> None:
    """A server answers a ping."""
    side().heartbeat(Heartbeat.model_validate(message))


@app.task(name="control.event", **PATIENT)
def event(message: dict[str, Any]) -> None:
    """Something happened to a container."""
    side().container_event(ContainerEvent.model_validate(message))


@app.task(name="control.tick")
def tick() -> None:
    """Look at operations whose lease ran out."""
    side().engine.tick()


@app.task(name="control.ping")
def ping() -> None:
    """Ping every server through its own queue, and mark the silent ones."""
    side().ping(PING)


@app.task(name="control.clean")
def clean() -> None:
    """Expire what is kept for a while only."""
    side().clean()


@app.task(name="control.sweep")
def sweep() -> None:
    """Remove what was left to be downloaded and was not."""
    side().sweep()
