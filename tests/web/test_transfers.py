"""Checkpoints as files at the panel's door: what comes in is looked at before anything is asked of a server."""

from __future__ import annotations

import io
import os
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from hostler.core.errors import HostFailure
from hostler.core.limits import Limits
from hostler.core.specs import ContainerSpec, DriverNames, IdRange, ImageSpec, Process
from hostler.mobility.manifest import Manifest, PartKind
from hostler.mobility.writing import of_bytes, write_to
from hostler.operations import transfers
from hostler.store.models import Container, Operation
from hostler.web.panel import Panel
from tests.web.fixtures import World
from tests.web.fleet import Fleet
from tests.web.test_containers import WEB, ended

LIMITS = Limits(cpu=0.5, memory=64 << 20, disk=1 << 30, pids=64)


def checkpoint_file(*, image: str = "ab", volume: bool = True, limits: Limits = LIMITS, **about: Any) -> bytes:
    """What an export might have written."""
    spec = ContainerSpec(
        id="0web", name="web", account="0acme", ids=IdRange(base=1_000_000), image=ImageSpec(digest="sha256:" + image * 32, driver="rootfs", size=10),
        process=Process(args=("sh", "-c", "serve"), user="www"), limits=limits, drivers=DriverNames(),
    )  # fmt: skip
    fields = {
        "id": "0checkpnt", "container": spec, "created_at": datetime.now(UTC), "node": "far", "kernel": "6.18.0", "architecture": "x86_64", "driver": "criu",
        "driver_version": "4.2", "volume_snapshot": "s1", "storage": "btrfs",
    } | about  # fmt: skip
    parts = [of_bytes(b"memory", "pages-1.img", PartKind.MEMORY)] + ([of_bytes(b"files", "volume", PartKind.VOLUME)] if volume else [])
    out = io.BytesIO()
    write_to(out, Manifest.model_validate(fields), parts)
    return out.getvalue()


def files(world: World) -> list[str]:
    """What is on its way."""
    folder = world.settings.blob_dir / "transfers"
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_an_import_is_a_container_of_its_own(world: World, fleet: Fleet) -> None:
    operation = ended(world.provider, world.provider.post("/v1/checkpoints/import", data=checkpoint_file()))
    assert operation["state"] == "done", operation
    made = world.provider.get("/v1/containers/web")
    assert (made["state"], made["node"], made["plan"], made["limits"]["memory"]) == ("running", "alpha", "small", 64 << 20)
    (batch,) = world.server.batches
    assert [order.verb for order in batch.steps] == ["checkpoint.import", "checkpoint.release"]
    assert batch.spec is not None and batch.spec.id != "0web" and batch.spec.drivers.storage == "btrfs"
    assert files(world) == [], "what was uploaded went with the operation's end"


def test_what_a_process_was_is_what_it_is_started_as_again(world: World, fleet: Fleet) -> None:
    process = Process(args=("sh", "-c", "serve"), env=("A=1",), user="www").model_dump(mode="json")
    world.server.results["checkpoint.import"] = {"pid": 1, "started_at": 2, "ms": 1.0, "process": process}
    ended(world.provider, world.provider.post("/v1/checkpoints/import", data=checkpoint_file()))
    ended(world.provider, world.provider.post("/v1/containers/web/restart"))
    spec = world.server.batches[-1].spec
    assert spec is not None and spec.process.args == ("sh", "-c", "serve") and spec.process.user == "www" and "A=1" in spec.process.env


@pytest.mark.parametrize(
    ("file", "query", "code", "words"),
    [
        (b"", "", "incomplete", "broke off"),
        (b"a tar", "", "invalid", "it ends inside"),
        (b"a tar that is longer than a prefix", "", "invalid", "this is no checkpoint of Hostler"),
        (checkpoint_file()[:300], "", "invalid", "it ends inside its manifest"),
        (checkpoint_file(volume=False), "", "no_files", "has no files of its container"),
        (checkpoint_file(image="cd"), "", "unknown_image", "cdcdcdcd"),
        (checkpoint_file(), "?name=taken", "name_taken", "exists already"),
        (checkpoint_file(), "?plan=none", "unknown_plan", "no plan none"),
        (checkpoint_file(), "?on=gamma", "unknown_node", "no server gamma"),
        (checkpoint_file(limits=Limits(memory=1 << 40)), "", "unknown_plan", "no plan allows as much"),
        (b"x" * (2 << 20), "", "too_large", "larger than 1M"),
    ],
)
def test_what_the_panel_sees_is_refused_before_a_server_is_asked(world: World, fleet: Fleet, file: bytes, query: str, code: str, words: str) -> None:
    world.settings.checkpoint_limit = 1 << 20
    ended(world.provider, world.provider.post("/v1/containers", WEB | {"name": "taken"}))
    before = len(world.server.batches)
    refused = world.provider("POST", f"/v1/checkpoints/import{query}", data=file)
    assert refused.status_code >= 400 and refused.json is not None
    assert refused.json["code"] == code and words in refused.json["detail"] and refused.json["hint"], refused.json
    assert files(world) == [] and len(world.server.batches) == before
    with world.store.read() as session:
        assert [row.name for row in session.scalars(select(Container))] == ["taken"]


def test_another_architecture_and_no_room_are_told_by_value(world: World, fleet: Fleet) -> None:
    for file, code, words in (
        (checkpoint_file(architecture="riscv64"), "does_not_fit", "riscv64"),
        (checkpoint_file(limits=Limits(memory=1 << 40)), "no_server", "of memory left"),
    ):
        failed = ended(world.provider, world.provider.post("/v1/checkpoints/import?plan=small", data=file))
        assert failed["state"] == "failed" and failed["error"]["code"] == code and words in failed["error"]["message"], failed
        world.provider.get("/v1/containers/web", 404)
        assert files(world) == []


def test_only_the_provider_imports(world: World) -> None:
    refused = world.alice.post("/v1/checkpoints/import", status=403, data=checkpoint_file())
    assert refused["code"] == "provider_only" and refused["hint"]
    assert files(world) == []


def test_a_key_makes_one_container(world: World, fleet: Fleet) -> None:
    file, headers = checkpoint_file(), {"Idempotency-Key": "once"}
    first = world.provider.post("/v1/checkpoints/import", data=file, headers=headers)
    again = world.provider.post("/v1/checkpoints/import", data=file, headers=headers)
    assert first["id"] == again["id"]
    ended(world.provider, first)
    assert files(world) == []


def test_an_export_that_fails_leaves_nothing_and_another_account_sees_none(world: World, fleet: Fleet) -> None:
    ended(world.alice, world.alice.post("/v1/containers", WEB))
    checkpoint = ended(world.alice, world.alice.post("/v1/containers/web/checkpoints"))["request"]["checkpoint"]
    world.mallory.post(f"/v1/checkpoints/{checkpoint}/export", status=404)
    world.server.hold.clear()
    asked = world.alice.post(f"/v1/checkpoints/{checkpoint}/export")
    handed_in(world, asked["id"])
    assert files(world) == [asked["id"]]
    world.alice.get(f"/v1/operations/{asked['id']}/file", 404)
    world.server.fail["export"] = HostFailure("the disk broke", hint="mend it")
    world.server.hold.set()
    assert ended(world.alice, asked)["state"] == "failed"
    assert files(world) == []


def handed_in(world: World, operation: str) -> None:
    """Be the server that exports."""
    panel = world.app.extensions["hostler"]
    assert isinstance(panel, Panel)
    while world.alice.get(f"/v1/operations/{operation}")["state"] != "running":
        time.sleep(0.01)
    ticket = panel.tickets.issue("hand in", operation)
    done = world.alice("PUT", f"/v1/transfers/{operation}?ticket={ticket}", data=b"exported")
    assert done.status_code == 201, done.data


def test_what_nobody_downloads_goes_after_an_hour(world: World, fleet: Fleet) -> None:
    ended(world.alice, world.alice.post("/v1/containers", WEB))
    checkpoint = ended(world.alice, world.alice.post("/v1/containers/web/checkpoints"))["request"]["checkpoint"]
    world.server.hold.clear()
    asked = world.alice.post(f"/v1/checkpoints/{checkpoint}/export")
    handed_in(world, asked["id"])
    folder = world.settings.blob_dir / "transfers"
    old = time.time() - transfers.KEPT - 1
    os.utime(folder / asked["id"], (old, old))
    assert swept(world) == [], "of an operation that is under way"
    world.server.hold.set()
    ended(world.alice, asked)
    world.mallory.get(f"/v1/operations/{asked['id']}/file", 404)
    assert world.alice("GET", f"/v1/operations/{asked['id']}/file").data == b"exported"
    assert swept(world) == [asked["id"]] and files(world) == []
    assert world.alice.get(f"/v1/operations/{asked['id']}/file", 404)["code"] == "unknown_file"


def swept(world: World) -> list[str]:
    """Who is removed now."""
    with world.store.read() as session:
        assert session.scalar(select(Operation.id).limit(1))
        return transfers.sweep(session, world.settings.blob_dir / "transfers")


def test_an_account_leaves_four_files_with_the_panel_at_most(world: World, fleet: Fleet) -> None:
    ended(world.alice, world.alice.post("/v1/containers", WEB))
    checkpoint = ended(world.alice, world.alice.post("/v1/containers/web/checkpoints"))["request"]["checkpoint"]
    world.server.hold.clear()
    asked = [world.alice.post(f"/v1/checkpoints/{checkpoint}/export") for _ in range(transfers.LIMIT)]
    refused = world.alice.post(f"/v1/checkpoints/{checkpoint}/export", status=409)
    assert refused["code"] == "too_many_files" and asked[0]["id"] in refused["hint"]
    world.server.hold.set()
    for one in asked:
        ended(world.alice, one)
    world.alice.post(f"/v1/checkpoints/{checkpoint}/export")
