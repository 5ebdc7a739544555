"""Checkpoints as files, without root: panel, servers, tickets and streams are real, the drivers keep plain files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hostler.client.client import Client
from hostler.core.api import OperationOut
from hostler.mobility.manifest import PartKind
from hostler.mobility.reading import verify
from tests.testing.test_mobility import storage, warm
from tests.testing.world import Platform

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def exported(platform: Platform, folder: Path, name: str = "web") -> Path:
    """The file of a checkpoint taken now."""
    checkpoint = str(platform.done(platform.client.checkpoint(name)).request["checkpoint"])
    done = platform.done(platform.client.export_checkpoint(checkpoint))
    file = folder / f"{checkpoint}.checkpoint"
    platform.client.download_checkpoint(done, file)
    return file


def left(platform: Platform) -> list[str]:
    """What the panel and the servers still have of files on their way."""
    folders = [platform.fleet.settings.blob_dir / "transfers", *(server.side.settings.node_state / "scratch" for server in platform.servers.values())]
    return [path.name for folder in folders if folder.is_dir() for path in folder.iterdir()]


def imported(client: Client, file: Path, **wish: Any) -> OperationOut:
    """Ask for a container of a file."""
    return client.import_checkpoint(file, **wish)


def test_exported_deleted_and_imported_elsewhere(pair: Platform, tmp_path: Path) -> None:
    container = warm(pair)
    address = pair.client.container("web").address_v4
    file = exported(pair, tmp_path)
    assert left(pair) == [], "the panel's copy went with the download"
    manifest = verify(file)
    assert [part.kind for part in manifest.parts][-1] is PartKind.VOLUME and manifest.container.id == container
    pair.done(pair.client.delete("web"))
    done = pair.done(imported(pair.client, file, on="beta"))
    made = pair.client.container("web")
    assert (made.state, made.node) == ("running", "beta") and made.id != container
    assert pair.inside("web", "recall") == "the milk\n"
    assert storage(pair.servers["beta"]).get(made.id, "srv/data") == b"on disk"
    assert storage(pair.servers["beta"]).snapshots(made.id) == [] and left(pair) == []
    assert done.result["checkpoint"] == manifest.id
    pair.done(imported(pair.client, file, name="web2", on="beta"))
    assert pair.client.container("web2").address_v4 not in (made.address_v4, None) and address is not None
    pair.done(pair.client.restart("web2"))
    pair.done(pair.client.delete("web"))
    pair.done(pair.client.delete("web2"))
    assert [item for server in pair.servers.values() for item in server.inventory()] == []
