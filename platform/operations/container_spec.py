"""A container's spec, put together from its rows for the servers."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from hostler.core.limits import Limits
from hostler.core.specs import (
    ID_COUNT,
    ContainerSpec,
    DriverNames,
    IdRange,
    ImageConfig,
    ImageSpec,
    Link,
    Process,
)
from hostler.operations.kind import Provider
from hostler.store.addresses import account_blocks
from hostler.store.models import Container, Image

#: First host id that containers get; below are the machine's own users and its other subordinate ranges.
ID_BASE = 1_000_000


def image_spec(image: Image, provider: Provider) -> ImageSpec:
    """What a server must know to have an image."""
    return ImageSpec(digest=image.digest, driver=image.driver or "rootfs", size=image.size, url=provider.tickets.fetch_url(image.digest))


def process_of(image: Image, wanted: dict[str, Any]) -> Process:
    """The image's way to be run, with what the request says laid over it, as OCI runtimes do:
    arguments replace the command, the entry point stays; environment adds to the image's."""
    config = ImageConfig.model_validate(image.config)
    args = tuple(wanted.get("args") or config.cmd)
    env = {item.split("=", 1)[0]: item for item in (*Process().env, *config.env, *wanted.get("env", ()))}
    return Process(
        args=(*config.entrypoint, *args),
        env=tuple(env.values()),
        cwd=wanted.get("cwd") or config.workdir or "/",
        user=wanted.get("user") or config.user,
        stop_signal=config.stop_signal,
    )


def link_of(session: Session, container: Container, provider: Provider) -> Link:
    """The container's interface, with its account's prefixes as they are now."""
    if container.address is None:
        raise AssertionError(f"container {container.id} has no address")
    limits = Limits.model_validate(container.limits)
    blocks = account_blocks(session, container.account_id)
    return provider.pool.link(container.address.number, blocks, limits.rate_in, limits.rate_out)


def container_spec(session: Session, container: Container, provider: Provider) -> ContainerSpec:
    """The whole spec. The container must have a server and an address."""
    if container.id_slot is None:
        raise AssertionError(f"container {container.id} has no id range")
    return ContainerSpec(
        id=container.id,
        name=container.name,
        account=container.account_id,
        account_weight=container.account.cpu_weight,
        ids=IdRange(base=ID_BASE + container.id_slot * ID_COUNT),
        image=image_spec(container.image, provider),
        process=process_of(container.image, container.process),
        limits=Limits.model_validate(container.limits),
        links=(link_of(session, container, provider),),
        drivers=DriverNames.model_validate(container.drivers),
    )
