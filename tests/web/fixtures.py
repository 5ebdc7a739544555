"""Fixtures that the tests of the panel, the client and the command line share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from hostler.core.limits import Limits
from hostler.core.names import new_id
from hostler.settings import ControlSettings
from hostler.store.accounts import create_account, create_token
from hostler.store.engine import Store
from hostler.store.models import Image, Plan
from hostler.store.nodes import add_node
from hostler.web import create_app
from hostler.web.panel import Panel
from tests.web.fleet import Fleet, Server

SMALL = {"cpu": 0.5, "memory": "256M", "disk": "2G", "pids": 256, "rate_in": "100Mbit", "rate_out": "100Mbit"}


@dataclass
class Caller:
    """Somebody with a token, calling the API."""

    client: FlaskClient
    token: str

    def __call__(self, method: str, path: str, body: Any = None, **kwargs: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {self.token}"} | kwargs.pop("headers", {})
        if body is not None:
            kwargs["json"] = body
        return self.client.open(path, method=method, headers=headers, **kwargs)

    def get(self, path: str, status: int = 200, **kwargs: Any) -> Any:
        """GET, expecting a status; the JSON."""
        return self._expect("GET", path, None, status, kwargs)

    def post(self, path: str, body: Any = None, status: int = 202, **kwargs: Any) -> Any:
        """POST, expecting a status; the JSON."""
        return self._expect("POST", path, body, status, kwargs)

    def delete(self, path: str, status: int = 202, **kwargs: Any) -> Any:
        """DELETE, expecting a status; the JSON."""
        return self._expect("DELETE", path, None, status, kwargs)

    def _expect(self, method: str, path: str, body: Any, status: int, kwargs: dict[str, Any]) -> Any:
        response = self(method, path, body, **kwargs)
        assert response.status_code == status, (response.status_code, response.get_data(as_text=True))
        return response.get_json(silent=True) if response.data else None


@dataclass
class World:
    """A panel with a provider, two tenants, a plan, an image and a server."""

    app: APIFlask
    settings: ControlSettings
    store: Store
    provider: Caller
    alice: Caller
    mallory: Caller
    server: Server


@pytest.fixture
def settings(tmp_path: Path, store_url: str, redis_socket: Path) -> ControlSettings:
    """Settings of an installation of its own."""
    return ControlSettings(installation=new_id(8), home=tmp_path, store_url=store_url, redis_socket=redis_socket, image_limit=1 << 20)


@pytest.fixture
def app(settings: ControlSettings) -> Iterator[APIFlask]:
    """The panel."""
    made = create_app(settings)
    yield made
    panel = made.extensions["hostler"]
    assert isinstance(panel, Panel)
    panel.close()


@pytest.fixture
def world(app: APIFlask, settings: ControlSettings, store: Store) -> World:
    """Everybody who asks, and what there is to ask for."""
    secrets = {}
    with store.write() as session:
        for name in ("provider", "alice", "mallory"):
            account = create_account(session, name, provider=name == "provider")
            _, secrets[name] = create_token(session, account, "test")
        session.add(Plan(name="small", limits=Limits.model_validate(SMALL).model_dump(mode="json"), drivers={}))
        session.add(Image(name="busybox", state="ready", digest="sha256:" + "ab" * 32, driver="rootfs", size=10, config={"cmd": ["sh"], "ports": ["80/tcp"]}))
        add_node(session, "alpha")
    provider, alice, mallory = (Caller(app.test_client(), secrets[name]) for name in ("provider", "alice", "mallory"))
    return World(app, settings, store, provider, alice, mallory, Server("alpha"))


@pytest.fixture
def fleet(world: World) -> Iterator[Fleet]:
    """The control side and the server, at work."""
    with Fleet(world.settings, [world.server]).at_work() as made:
        yield made


@pytest.fixture
def beta(world: World, fleet: Fleet) -> Iterator[Server]:
    """A second server, at work beside the first."""
    with world.store.write() as session:
        add_node(session, "beta")
    server = Server("beta")
    with Fleet(world.settings, [server], control=False).at_work():
        yield server


@pytest.fixture
def panel_url(app: APIFlask) -> Iterator[str]:
    """The panel on a real socket of the loopback."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()
