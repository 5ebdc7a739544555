"""Verbs about images: have one, look at one, make one, forget one."""

from __future__ import annotations

from typing import Any

from hostler.contracts.driver import Driver
from hostler.contracts.images import UnpackLimits
from hostler.contracts.storage import Storage
from hostler.core.errors import HostFailure, Unsupported
from hostler.core.messages import Batch
from hostler.core.specs import ImageSpec
from hostler.node import recipes
from hostler.node.verbs import Nothing, Payload, Server, Verb, spec_of

#: Storage drivers in which a server tries an image out, best first; then whichever it has.
_TRIAL_ORDER = ("btrfs", "overlay")


class ImagePayload(Payload):
    """An image."""

    image: ImageSpec


class RecipePayload(Payload):
    """A recipe's name, and where the archive is handed in."""

    recipe: str
    store_url: str
    operation: str


def image_ensure(server: Server, batch: Batch, _: Nothing) -> dict[str, Any]:
    """The container's image, unpacked in its storage driver. Fetched only when it is not there."""
    spec = spec_of(batch)
    storage = server.drivers.storage(spec.drivers.storage)
    if storage.has_image(spec.image.short):
        return {"fetched": False}
    with server.archives.fetched(spec.image) as archive:
        server.archives.unpack(spec.image, archive, storage, UnpackLimits())
    return {"fetched": True}


def image_import(server: Server, batch: Batch, payload: ImagePayload) -> dict[str, Any]:
    """Fetch, verify and unpack an uploaded archive, and tell what it is."""
    image = payload.image
    storage = _trial_storage(server)
    with server.archives.fetched(image) as archive:
        storage.remove_image(image.short)  # a first run that was interrupted may have left it: what it is must be learned
        driver, unpacked = server.archives.unpack(image, archive, storage, UnpackLimits())
        if unpacked is None:
            raise HostFailure("the image appeared while it was being looked at", hint="import it again", code="conflict")
    return _learned(driver, image.digest, image.size, unpacked.bytes, unpacked.config.model_dump(mode="json"))


def image_build(server: Server, batch: Batch, payload: RecipePayload) -> dict[str, Any]:
    """Make a root file system from a recipe, try it, and hand it in."""
    storage = _trial_storage(server)
    with server.archives.workspace() as folder:
        archive = recipes.build(payload.recipe, folder, netns=server.build_netns)
        digest, size = server.archives.hand_in(payload.store_url, archive)
        image = ImageSpec(digest=digest, driver="rootfs", size=size)
        storage.remove_image(image.short)
        driver, unpacked = server.archives.unpack(image, archive, storage, UnpackLimits())
        if unpacked is None:
            raise HostFailure("the image appeared while it was being made", hint="build it again", code="conflict")
    return _learned(driver, digest, size, unpacked.bytes, unpacked.config.model_dump(mode="json"))


def image_forget(server: Server, batch: Batch, payload: ImagePayload) -> None:
    """Remove the unpacked image from every storage driver; none is a success."""
    for driver in server.drivers.all():
        if isinstance(driver, Storage):
            driver.remove_image(payload.image.short)


def _learned(driver: Driver, digest: str, size: int, unpacked: int, config: dict[str, Any]) -> dict[str, Any]:
    return {"driver": driver.name, "digest": digest, "size": size, "unpacked_size": unpacked, "config": config}


def _trial_storage(server: Server) -> Storage:
    usable = server.drivers.loaded["storage"]
    for name in (*_TRIAL_ORDER, *sorted(usable)):
        if name in usable:
            return server.drivers.storage(name)
    raise Unsupported("this server has no usable storage driver", hint="hostler doctor on the server tells why", code="no_driver")


VERBS: tuple[Verb, ...] = (
    Verb("image.ensure", Nothing, image_ensure),
    Verb("image.import", ImagePayload, image_import),
    Verb("image.build", RecipePayload, image_build),
    Verb("image.forget", ImagePayload, image_forget),
)
