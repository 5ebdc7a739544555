"""What a node worker works with: drivers, journal, runner, broker. No store: it has no way to reach one."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from functools import partial

import structlog

from hostler.broker import Broker
from hostler.contracts.driver import Host
from hostler.core.errors import HostlerError
from hostler.core.messages import Heartbeat, Hello
from hostler.core.names import new_id
from hostler.mobility.keys import key_of
from hostler.node import container_verbs, drivers, image_verbs, mobility_verbs, transfer_verbs, watch
from hostler.node.archives import Archives
from hostler.node.drivers import Drivers
from hostler.node.facts import facts, memory_info, pool_space
from hostler.node.here import this_host
from hostler.node.journal import Journal, journal_file
from hostler.node.mobility.sweep import sweep
from hostler.node.runner import Runner
from hostler.node.verbs import Server, Verb
from hostler.node.wire.wire import Wire
from hostler.settings import NodeSettings

logger = structlog.get_logger()


def all_verbs() -> dict[str, Verb]:
    """Every verb by name."""
    return {verb.name: verb for verb in (*container_verbs.VERBS, *image_verbs.VERBS, *mobility_verbs.VERBS, *transfer_verbs.VERBS)}


def open_wire(settings: NodeSettings) -> Wire | None:
    """What other servers connect to. A server without it does all its work but moves: that it has none is told in its facts."""
    if not settings.node_wire_listen:
        return None
    try:
        return Wire(settings.node_state / "wire", settings.node, settings.node_wire_listen, settings.node_wire_address)
    except HostlerError as error:
        logger.error("this server has no wire", code=error.stable_code, reason=error.message, hint=error.hint)
        return None


class NodeSide:
    """One per node worker process."""

    def __init__(self, settings: NodeSettings, load: Callable[[Host], Drivers] | None = None) -> None:
        self.settings = settings
        self.instance = new_id()
        settings.node_state.mkdir(parents=True, exist_ok=True, mode=0o700)
        host = this_host(settings)
        installed = partial(drivers.load, setup=True, enabled=settings.drivers_enabled)
        self.drivers = (load or installed)(host)
        archives = Archives(settings.node_state / "scratch", self.drivers.images)
        archives.clean()
        sweep(settings.node_state, self.drivers)
        self.wire = open_wire(settings)
        self.journal = Journal(journal_file(host), self.instance)
        self.server = Server(
            host=host,
            drivers=self.drivers,
            archives=archives,
            nudge=lambda container: watch.nudge(host, container),
            build_netns=settings.build_netns,
            wire=self.wire,
            journal=self.journal,
            key=lambda: key_of(settings.checkpoint_key.get_secret_value(), settings.checkpoint_key_file),
        )
        self.broker = Broker(settings)
        self.runner = Runner(self.server, all_verbs(), self.journal, self.broker.report)

    def greet(self) -> None:
        """Tell the control side that this worker is here, and what the server has."""
        self.broker.hello(Hello(node=self.settings.node, instance=self.instance, facts=facts(self.settings, self.drivers, self.wire)))

    def heartbeat(self, sent_at: datetime) -> Heartbeat:
        """A sign of life with figures."""
        return Heartbeat(
            node=self.settings.node,
            instance=self.instance,
            sent_at=sent_at,
            disk_free=pool_space(self.drivers)[0],
            load=os.getloadavg()[0],
            memory_available=memory_info()["MemAvailable"],
        )

    def close(self) -> None:
        """End what runs beside the tasks."""
        if self.wire is not None:
            self.wire.close()
        self.runner.close()
        self.journal.close()
        self.broker.close()
