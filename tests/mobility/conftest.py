"""A checkpoint to write, and keys to write it with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from hostler.core.specs import ContainerSpec, IdRange, ImageSpec, Process
from hostler.mobility.keys import Key
from hostler.mobility.manifest import Manifest

SECRET = "DATABASE_URL=postgres://web:hunter2@db/web"


def a_manifest(checkpoint: str = "ckpt0001", parent: str | None = None) -> Manifest:
    container = ContainerSpec(
        id="web00001",
        name="web",
        account="acct0001",
        ids=IdRange(base=1_000_000),
        image=ImageSpec(digest="sha256:" + "ab" * 32, driver="oci", size=4096, url="https://panel/blobs?ticket=hush"),
        process=Process(args=("nginx", "-g", "daemon off;"), env=(SECRET,)),
    )
    return Manifest(
        id=checkpoint,
        container=container,
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        node="alpha",
        kernel="6.1.0-18-amd64",
        architecture="x86_64",
        cpu_features=("avx2", "sse4_2"),
        driver="criu",
        driver_version="4.1",
        parent=parent,
        volume_snapshot="web@ckpt0001",
        storage="btrfs",
        keeps_running=True,
        details={"frozen_ms": 41.5, "rounds": [1, 2]},
    )


@pytest.fixture
def manifest() -> Manifest:
    return a_manifest()


@pytest.fixture
def named() -> Callable[[str, str | None], Manifest]:
    """Manifests of other ids and parents."""
    return a_manifest


@pytest.fixture
def key() -> Key:
    return Key(bytes(range(32)))


@pytest.fixture
def other_key() -> Key:
    return Key(bytes(range(1, 33)))
