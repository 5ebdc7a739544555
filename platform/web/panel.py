"""What one panel process works with: settings, store, broker, tickets, pool.

gunicorn loads the app before it forks, so nothing is opened until a request needs it, and a process that finds
connections of its parent opens its own.
"""

from __future__ import annotations

import os
import threading
from typing import cast

from flask import current_app

from hostler.broker import Broker
from hostler.operations.kind import Provider
from hostler.operations.tickets import Tickets, load_key
from hostler.placement.choose import Overcommit
from hostler.settings import ControlSettings
from hostler.store.addresses import Pool
from hostler.store.engine import Store

_EXTENSION = "hostler"


class Panel:
    """Opened lazily, once per process; safe to share between its threads."""

    def __init__(self, settings: ControlSettings) -> None:
        self.settings = settings
        self.pool = Pool.of(settings.pool_v4, settings.pool_v6, settings.gateway_v4, settings.gateway_v6)
        self.broker_lost = float("-inf")
        """When this process last found the broker to be away, on the monotonic clock."""
        self._lock = threading.Lock()
        self._pid = 0
        self._store: Store | None = None
        self._broker: Broker | None = None
        self._tickets: Tickets | None = None

    def _mine(self) -> None:
        """Forget, without closing them, connections that belong to the process this one was forked from."""
        if self._pid != os.getpid():
            self._pid, self._store, self._broker, self._tickets = os.getpid(), None, None, None

    @property
    def store(self) -> Store:
        """This process's store."""
        with self._lock:
            self._mine()
            if self._store is None:
                self._store = Store(self.settings.store)
            return self._store

    @property
    def broker(self) -> Broker:
        """This process's door to the broker."""
        with self._lock:
            self._mine()
            if self._broker is None:
                self._broker = Broker(self.settings)
            return self._broker

    @property
    def tickets(self) -> Tickets:
        """Tickets, made and checked with the installation's key."""
        with self._lock:
            self._mine()
            if self._tickets is None:
                self._tickets = Tickets(load_key(self.settings.secret_path), self.settings.panel_url)
            return self._tickets

    @property
    def provider(self) -> Provider:
        """What containers' specs are put together with."""
        settings = self.settings
        ratio = Overcommit(settings.overcommit_cpu, settings.overcommit_memory, settings.overcommit_disk)
        return Provider(
            pool=self.pool, overcommit=ratio, tickets=self.tickets, blob_dir=settings.blob_dir, image_limit=settings.image_limit,
            checkpoint_limit=settings.checkpoint_limit,
        )

    def close(self) -> None:
        """Close what this process opened."""
        with self._lock:
            self._mine()
            if self._store is not None:
                self._store.close()
            if self._broker is not None:
                self._broker.close()
            self._store, self._broker, self._tickets = None, None, None


def attach(extensions: dict[str, object], panel: Panel) -> None:
    """Make a panel the one of an app."""
    extensions[_EXTENSION] = panel


def panel() -> Panel:
    """The panel of the app that handles this request."""
    return cast(Panel, current_app.extensions[_EXTENSION])
