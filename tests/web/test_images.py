"""Archives come in whole or leave nothing."""

from __future__ import annotations

import hashlib
import io
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select

from hostler.core.errors import Conflict
from hostler.operations import requests
from hostler.store.models import Image
from hostler.web import blobs
from hostler.web.panel import Panel
from tests.web.fixtures import World
from tests.web.fleet import Fleet
from tests.web.test_containers import WEB, ended


def files(world: World) -> list[str]:
    """What lies in the folder of archives, hidden files too."""
    folder = world.settings.blob_dir
    return sorted(os.listdir(folder)) if folder.exists() else []


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def test_an_upload_becomes_an_image_and_goes_with_it(world: World, fleet: Fleet) -> None:
    done = ended(world.alice, world.alice.post("/v1/images?name=mine", data=b"tar" * 1000))
    assert done["state"] == "done" and done["result"]["digest"] == "sha256:" + digest(b"tar" * 1000)
    assert files(world) == [digest(b"tar" * 1000)]
    shown = world.alice.get("/v1/images/mine")
    assert shown["own"] and shown["state"] == "ready" and shown["size"] == 3000
    assert world.mallory.get("/v1/images/mine", 404)["code"] == "unknown_image"
    assert not world.alice.get("/v1/images/busybox")["own"]
    assert world.alice.delete("/v1/images/busybox", 404)["code"] == "not_found", "the provider's images are not a tenant's to delete"
    ended(world.alice, world.alice.post("/v1/containers", WEB | {"image": "mine"}))
    assert world.alice.delete("/v1/images/mine", 409)["code"] == "in_use"
    ended(world.alice, world.alice.delete("/v1/containers/web"))
    ended(world.alice, world.alice.delete("/v1/images/mine"))
    assert files(world) == []


def test_a_refused_upload_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = world.settings.image_limit
    assert world.alice.post("/v1/images?name=mine", status=413, data=b"x" * (limit + 1))["code"] == "too_large"
    chunked = {"Transfer-Encoding": "chunked"}
    stream = io.BytesIO(b"x" * (limit + 1))
    assert world.alice.post("/v1/images?name=mine", status=413, input_stream=stream, headers=chunked, environ_base={"wsgi.input_terminated": True})["code"] == "too_large"
    assert world.alice.post("/v1/images?name=mine", status=422, data=b"")["code"] == "incomplete"
    assert world.alice.post("/v1/images?name=Bad_Name", status=422, data=b"x")["fields"][0]["field"] == "name"
    assert world.provider.post("/v1/images?name=busybox", status=409, data=b"x")["code"] == "name_taken"
    monkeypatch.setattr(requests, "import_image", lambda *_: (_ for _ in ()).throw(Conflict("no")))
    assert world.alice.post("/v1/images?name=mine", status=409, data=b"x")["code"] == "conflict"
    assert files(world) == []


def test_an_upload_that_breaks_off_leaves_nothing(world: World, panel_url: str) -> None:
    url = urlsplit(panel_url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as caller:
        head = f"POST /v1/images?name=mine HTTP/1.1\r\nHost: panel\r\nAuthorization: Bearer {world.alice.token}\r\nContent-Length: 8\r\n\r\n"
        caller.sendall(head.encode() + b"half")
        caller.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    assert b" 422 " in answer.splitlines()[0] and b'"code":"incomplete"' in answer
    assert files(world) == [] and world.alice.get("/v1/operations")["items"] == []


def test_an_archive_whose_row_cannot_be_kept_is_removed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(self: blobs.Upload) -> bool:
        real(self)
        assert files(world) == [digest(b"x")]
        raise ZeroDivisionError

    real = blobs.Upload.keep
    monkeypatch.setattr(blobs.Upload, "keep", breaks)
    assert world.alice.post("/v1/images?name=mine", status=500, data=b"x")["code"] == "internal"
    assert files(world) == []
    with world.store.read() as session:
        assert session.scalar(select(Image.id).where(Image.name == "mine")) is None


def test_two_images_of_the_same_bytes_share_one_archive(world: World, fleet: Fleet) -> None:
    for name in ("one", "two"):
        ended(world.alice, world.alice.post(f"/v1/images?name={name}", data=b"same"))
    assert files(world) == [digest(b"same")]
    ended(world.alice, world.alice.delete("/v1/images/one"))
    assert files(world) == [digest(b"same")]
    ended(world.alice, world.alice.delete("/v1/images/two"))
    assert files(world) == []


def test_an_upload_under_a_key_is_done_once(world: World) -> None:
    key = {"Idempotency-Key": "upload"}
    first = world.alice.post("/v1/images?name=mine", data=b"abc", headers=key)
    assert world.alice.post("/v1/images?name=mine", data=b"abc", headers=key) == first
    assert world.alice.post("/v1/images?name=mine", status=422, data=b"abd", headers=key)["code"] == "idempotency_mismatch"
    assert files(world) == [digest(b"abc")]


def test_tickets_open_one_thing_only(world: World) -> None:
    panel = world.app.extensions["hostler"]
    assert isinstance(panel, Panel)
    world.alice.post("/v1/images?name=mine", data=b"abc")
    name = "sha256:" + digest(b"abc")
    client = world.app.test_client()
    good = panel.tickets.issue("fetch", name)
    assert client.get(f"/v1/blobs/{name}?ticket={good}").data == b"abc"
    for ticket in (panel.tickets.issue("fetch", "sha256:" + "0" * 64), panel.tickets.issue("store", name), good + "x", "x"):
        response = client.get(f"/v1/blobs/{name}?ticket={ticket}")
        assert response.status_code == 403 and response.json is not None and response.json["code"] == "bad_ticket"
    outside = "..%2Fsecret"
    response = client.get(f"/v1/blobs/{outside}?ticket={panel.tickets.issue('fetch', '../secret')}")
    assert response.status_code == 404
    for escape in ("sha256:../secret", "sha256:", "secret"):
        assert client.get(f"/v1/blobs/{escape}?ticket={panel.tickets.issue('fetch', escape)}").status_code == 404
    stray = client.put(f"/v1/blobs?operation=none&ticket={panel.tickets.issue('store', 'none')}", data=b"x")
    assert stray.status_code == 409 and files(world) == [digest(b"abc")]


def test_a_build_that_fails_after_handing_in_leaves_no_archive(world: World, fleet: Fleet) -> None:
    panel = world.app.extensions["hostler"]
    assert isinstance(panel, Panel)
    world.server.hold.clear()
    world.server.fail["build"] = Conflict("the archive cannot be unpacked")
    build = world.provider.post("/v1/images/build", {"name": "made", "recipe": "busybox"})
    while world.provider.get(f"/v1/operations/{build['id']}")["state"] != "running":
        pass
    ticket = panel.tickets.issue("store", build["id"])
    response = world.app.test_client().put(f"/v1/blobs?operation={build['id']}&ticket={ticket}", data=b"built")
    assert response.status_code == 201 and files(world) == [digest(b"built")]
    world.server.hold.set()
    assert ended(world.provider, build)["state"] == "failed"
    assert files(world) == []


def test_a_folder_without_unnamed_files_is_said_so() -> None:
    with pytest.raises(Exception, match="has no O_TMPFILE"), blobs.received(io.BytesIO(b"x"), Path("/proc"), 10, None):
        raise AssertionError("unreachable")
