"""The one door to the broker (Celery on Redis): what each process says to the others, by name.

Messages are hints and carry work; the truth is in the store. Answers to questions and news for watchers go through
Redis lists and channels, which hold nothing that could not be asked again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from hostler.core.errors import ErrorReport, Unavailable
from hostler.core.messages import Batch, ContainerEvent, Heartbeat, Hello, Report
from hostler.settings import PlatformSettings

CONTROL_QUEUE = "control"
#: Seconds that a question to a server waits for its answer.
ASK_TIMEOUT = 10.0
_NOT_REACHED = "the message broker cannot be reached"


def node_queue(node: str) -> str:
    """The queue that a server's worker reads."""
    return f"node.{node}"


def celery_app(name: str, settings: PlatformSettings) -> Celery:
    """A Celery app with the rules that all of ours share.

    Messages are acknowledged when taken, and leases in the store bring back what a dying worker took along: so a message is
    never run again beside its first copy for being slow. No results, no remote control, no gossip.
    """
    app = Celery(name, broker=settings.broker)
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=CONTROL_QUEUE,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"visibility_timeout": 3600, "socket_timeout": 30, "socket_connect_timeout": 5, "global_keyprefix": f"hostler-{settings.installation}:"},
        timezone="UTC",
    )
    return app


class Broker:
    """Sends messages, asks questions, tells and hears news. One per process, opened after its fork; thread-safe."""

    def __init__(self, settings: PlatformSettings) -> None:
        self._app = celery_app("hostler-sender", settings)
        self._redis: Any = redis.Redis(
            unix_socket_path=str(settings.redis_socket),
            socket_timeout=30,
            socket_connect_timeout=5,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 3),  # the default would keep a caller for four seconds
        )
        self._prefix = f"hostler-{settings.installation}:"

    def _task(self, name: str, queue: str, *args: Any, expires: float | None = None) -> None:
        try:
            self._app.send_task(name, args=args, queue=queue, expires=expires, retry=True, retry_policy={"max_retries": 2, "interval_start": 0.05, "interval_max": 0.2})
        except (BrokerError, redis.RedisError, OSError) as error:
            raise Unavailable(_NOT_REACHED, hint="what was written down goes on when it is back", code="broker_unavailable") from error

    # --- to the control worker ---

    def look_at(self, operation: str) -> None:
        """Ask the control worker to look at an operation."""
        self._task("control.advance", CONTROL_QUEUE, operation)

    def report(self, report: Report) -> None:
        """A server's word on a batch."""
        self._task("control.report", CONTROL_QUEUE, report.model_dump(mode="json"))

    def hello(self, hello: Hello) -> None:
        """A node worker has started."""
        self._task("control.hello", CONTROL_QUEUE, hello.model_dump(mode="json"))

    def heartbeat(self, beat: Heartbeat) -> None:
        """A node worker answers a ping."""
        self._task("control.heartbeat", CONTROL_QUEUE, beat.model_dump(mode="json"), expires=30)

    def container_event(self, event: ContainerEvent) -> None:
        """Something happened to a container."""
        self._task("control.event", CONTROL_QUEUE, event.model_dump(mode="json"))

    # --- to servers ---

    def send(self, batch: Batch) -> None:
        """Give a batch to its server; one that is not taken while its lease runs is thrown away."""
        self._task("node.batch", node_queue(batch.node), batch.model_dump(mode="json"), expires=batch.good_for)

    def ping(self, node: str, interval: timedelta) -> None:
        """Ask a server for a heartbeat through its own queue; a late one is worthless."""
        self._task("node.ping", node_queue(node), time.time(), expires=interval.total_seconds())

    def ask_greeting(self, node: str) -> None:
        """Ask a server's worker to introduce itself."""
        self._task("node.greet", node_queue(node), expires=30)

    def ask(self, node: str, question: str, args: dict[str, Any], timeout: float = ASK_TIMEOUT) -> dict[str, Any]:
        """Ask a server something that changes nothing, and wait for the answer. Raises what the server raised, or
        :class:`Unavailable` after ``timeout`` seconds."""
        key = f"{self._prefix}answer:{uuid.uuid4().hex}"
        self._task("node.ask", node_queue(node), key, question, args, expires=timeout)
        try:
            taken = self._redis.blpop([key], timeout=timeout)
        except redis.RedisError as error:
            raise Unavailable(_NOT_REACHED, hint="try again", code="broker_unavailable") from error
        if taken is None:
            raise Unavailable(f"server {node} did not answer within {timeout:g} s", hint="hostler node list tells whether it is online", code="node_silent")
        answer = json.loads(taken[1])
        if "error" in answer:
            raise ErrorReport.model_validate(answer["error"]).raised()
        result: dict[str, Any] = answer["result"]
        return result

    def answer(self, key: str, result: dict[str, Any] | None, error: ErrorReport | None) -> None:
        """A server's answer to a question; thrown away after a minute if nobody waits."""
        body = {"error": error.model_dump(mode="json")} if error else {"result": result}
        pipe = self._redis.pipeline()
        pipe.rpush(key, json.dumps(body))
        pipe.expire(key, 60)
        pipe.execute()

    # --- news ---

    def announce(self, operation: str) -> None:
        """Tell watchers that an operation's row has changed. Lost news cost a watcher a second, no more."""
        try:
            self._redis.publish(f"{self._prefix}operation:{operation}", "changed")
        except redis.RedisError as error:
            raise Unavailable(_NOT_REACHED, code="broker_unavailable") from error

    def news(self, operation: str, grain: float = 1.0) -> Iterator[None]:
        """Yield once at the start, then whenever the operation's row may have changed, at least every ``grain`` seconds."""
        channel = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            channel.subscribe(f"{self._prefix}operation:{operation}")
            yield
            while True:
                channel.get_message(timeout=grain)
                yield
        except redis.RedisError as error:
            raise Unavailable(_NOT_REACHED, hint="ask for the operation again", code="broker_unavailable") from error
        finally:
            channel.close()

    def is_up(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self._redis.ping())
        except redis.RedisError:
            return False

    def close(self) -> None:
        """Close all connections."""
        self._app.close()
        self._redis.close()

