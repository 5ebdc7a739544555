"""The client against a real panel on a real socket, and against the network's bad days."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from sqlalchemy import func, select

from hostler.client.client import Client, failure
from hostler.client.http import Http, parse_events
from hostler.core.errors import HostFailure, HostlerError, Invalid, Timeout, Unavailable
from hostler.store.models import Operation
from hostler.web.api import operations
from tests.web.fixtures import World
from tests.web.fleet import Fleet

WEB = {"name": "web", "image": "busybox", "plan": "small"}


@pytest.fixture
def client(world: World, panel_url: str) -> Iterator[Client]:
    """Alice's client."""
    with Client(panel_url, world.alice.token) as made:
        yield made


def test_a_container_followed_from_request_to_end(world: World, fleet: Fleet, client: Client) -> None:
    seen = list(client.follow(client.create(WEB).id))
    assert seen[-1].state == "done" and seen[-1].seconds is not None and failure(seen[-1]) is None
    assert client.container("web").address_v4 == "198.18.1.1"
    assert [container.name for container in client.containers(name="w")] == ["web"]
    world.server.lines += ["one", "two"]
    assert [line.text for line in client.logs("web", tail=1).lines] == ["two"]
    pages = client.follow_logs("web", tail=1)
    assert next(pages).lines[0].text == "two"
    world.server.lines.append("three")
    assert next(pages).lines[0].text == "three"
    assert client.usage("web").running
    done = client.wait(client.exec("web", {"args": ["true"]}).id)
    assert done.result["exit_code"] == 0
    world.server.fail["stop"] = HostFailure("stuck", hint="wait")
    reason = failure(client.wait(client.stop("web").id))
    assert reason is not None and (reason.stable_code, reason.message, reason.hint) == ("host_failure", "stuck", "wait")


def test_problems_become_errors(client: Client) -> None:
    with pytest.raises(HostlerError) as caught:
        client.container("a/../b c")
    assert caught.value.stable_code == "not_found" and caught.value.http_status == 404 and caught.value.hint
    with pytest.raises(HostlerError, match=r"limits\.memory: .* is not a size") as caught:
        client.create(WEB | {"limits": {"memory": "lots"}})
    assert caught.value.stable_code == "invalid"


def test_pages_are_put_together(world: World, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        client.create(WEB | {"name": f"web-{number}"})
    monkeypatch.setattr("hostler.core.api.PAGE_LIMIT", 2)
    assert [container.name for container in client.containers()] == [f"web-{number}" for number in range(5)]


def test_without_a_stream_an_operation_is_looked_at(world: World, fleet: Fleet, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> Iterator[None]:
        raise Unavailable("no stream today")

    monkeypatch.setattr(Http, "stream", refuses)
    assert client.wait(client.create(WEB).id).state == "done"


def test_a_stream_that_ends_early_is_taken_up_again(world: World, fleet: Fleet, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "LIFETIME", 0.0)
    world.server.hold.clear()
    threading.Timer(0.5, world.server.hold.set).start()
    assert client.wait(client.create(WEB).id).state == "done"


class Losing(httpx.BaseTransport):
    """Delivers requests but loses the answers to the first so many."""

    def __init__(self, lose: int) -> None:
        self.inner, self.lose = httpx.HTTPTransport(), lose

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self.inner.handle_request(request)
        if self.lose:
            self.lose -= 1
            response.close()
            raise httpx.ReadError("connection reset by peer")
        return response


def test_an_answer_that_was_lost_is_asked_for_again_and_the_change_done_once(world: World, panel_url: str, client: Client) -> None:
    http = Http(panel_url, world.alice.token, 5)
    http._http = httpx.Client(base_url=panel_url, headers=http._http.headers, transport=Losing(2))
    assert http.request("POST", "/v1/containers", body=WEB)["kind"] == "provision"
    with world.store.read() as session:
        assert session.scalar(select(func.count()).select_from(Operation)) == 1
    http._http = httpx.Client(base_url=panel_url, headers=http._http.headers, transport=Losing(3))
    with pytest.raises(Unavailable) as caught:
        http.request("GET", "/v1/account")
    assert caught.value.stable_code == "panel_unreachable"


@contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """A server that is no panel."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p>!",
        b"HTTP/1.1 404 Not Found\r\nContent-Type: application/problem+json\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_another_server_is_told_apart(reply: bytes) -> None:
    with answering(reply) as url, Client(url, "token") as client, pytest.raises(Unavailable) as caught:
        client.own_account()
    assert caught.value.stable_code == "not_a_panel"


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(Unavailable, match="cannot be reached"):
        client.health()
    with Client("nonsense") as client, pytest.raises(Unavailable):
        client.health()


def test_a_silent_panel_is_a_timeout() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with listener, Client(url, timeout=0.1) as client, pytest.raises(Timeout) as caught:
        client.health()
    assert caught.value.stable_code == "panel_silent"


def test_only_one_module_knows_httpx() -> None:
    import hostler.client.client
    import hostler.client.http

    assert not hasattr(hostler.client.client, "httpx") and hasattr(hostler.client.http, "httpx")


def test_events_are_read_as_their_standard_says() -> None:
    lines = [": comment", "", "event: a", "data: 1", "data: 2", "id: 9", "", "data:x", "", "event: empty", "", "data: cut off"]
    assert [(event.name, event.data) for event in parse_events(lines)] == [("a", "1\n2"), ("message", "x")]


def test_an_upload_arrives_whole(world: World, fleet: Fleet, client: Client) -> None:
    chunks = [b"a" * 70_000, b"b" * 70_000]
    done = client.wait(client.import_image("mine", iter(chunks), 140_000).id)
    assert done.result["size"] == 140_000 and client.image("mine").own
    with pytest.raises(HostlerError) as caught:
        client.import_image("mine", iter(chunks), 140_000)
    assert caught.value.stable_code in ("name_taken", "panel_unreachable"), "the panel may hang up before the end"
    assert not isinstance(caught.value, Invalid)
