"""Whether a checkpoint can be restored on a server: pure, from what both say of themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import Field

from hostler.core.specs import Spec
from hostler.mobility.manifest import Manifest

_NUMBERS = re.compile(r"v?(\d{1,6})(?:\.(\d{1,6}))?(?:\.(\d{1,6}))?")
#: Features named in a sentence; the rest is counted.
_NAMED = 8


class HostFacts(Spec):
    """What a server says of itself. ``drivers`` are its checkpoint drivers that work, with the versions of their programs;
    ``images`` digests; ``checkpoints`` the ids on its shelf; ``storage`` its storage drivers that work."""

    node: str
    architecture: str
    kernel: str
    cpu_features: frozenset[str] = frozenset()
    drivers: dict[str, str] = {}
    storage: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    checkpoints: frozenset[str] = frozenset()
    free: int | None = Field(default=None, ge=0, description="bytes free for unpacked checkpoints; none: not known")


@dataclass(frozen=True)
class Mismatch:
    """One reason against a restore, or a warning where ``blocks`` is false. ``code`` is stable."""

    code: str
    message: str
    remedy: str
    blocks: bool = True


def compatibility(manifest: Manifest, host: HostFacts) -> list[Mismatch]:
    """All reasons, those that block first. Empty: nothing that can be known beforehand is against it."""
    found = [*_machine(manifest, host), *_kernel(manifest, host), *_driver(manifest, host), *_things(manifest, host)]
    return sorted(found, key=lambda mismatch: not mismatch.blocks)


def version(text: str) -> tuple[int, int, int] | None:
    """The first three numbers of a release, such as ``6.1.0-18-amd64`` or ``v4.1``; none of a text without."""
    match = _NUMBERS.match(text)
    return (int(match[1]), int(match[2] or 0), int(match[3] or 0)) if match else None


def _machine(manifest: Manifest, host: HostFacts) -> list[Mismatch]:
    if manifest.architecture != host.architecture:
        return [
            Mismatch(
                "architecture",
                f"the checkpoint is of {manifest.architecture}; server {host.node} is {host.architecture}",
                f"restore it on a server of {manifest.architecture}",
            )
        ]
    missing = sorted(set(manifest.cpu_features) - host.cpu_features)
    if not missing:
        return []
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return [
        Mismatch(
            "cpu_features",
            f"the processor of server {host.node} lacks what the container's programs may have found and use: {', '.join(missing[:_NAMED])}{more}",
            f"restore it on a server with a processor as new as that of {manifest.node or 'the one it was taken on'}",
        )
    ]


def _kernel(manifest: Manifest, host: HostFacts) -> list[Mismatch]:
    wrote, has = version(manifest.kernel), version(host.kernel)
    if wrote is None or has is None:
        unread = manifest.kernel if wrote is None else host.kernel
        return [Mismatch("kernel_unknown", f"{unread!r} is no kernel release that can be compared", "compare the two kernels by hand", blocks=False)]
    if has[:2] >= wrote[:2]:
        return []
    return [
        Mismatch(
            "kernel",
            f"the checkpoint was taken on Linux {manifest.kernel}; server {host.node} runs the older {host.kernel}",
            f"restore it on a server with Linux {wrote[0]}.{wrote[1]} or newer",
            blocks=has[0] < wrote[0],
        )
    ]


def _driver(manifest: Manifest, host: HostFacts) -> list[Mismatch]:
    if manifest.driver not in host.drivers:
        return [
            Mismatch(
                "driver",
                f"server {host.node} has no working checkpoint driver {manifest.driver}",
                f"install {manifest.driver} there, and see what `hostler doctor` says of it",
            )
        ]
    there = host.drivers[manifest.driver]
    wrote, has = version(manifest.driver_version), version(there)
    if wrote is None or has is None:
        return [Mismatch("driver_unknown", f"versions {manifest.driver_version!r} and {there!r} of {manifest.driver} cannot be compared", "compare them by hand", blocks=False)]
    if has >= wrote:
        return []
    return [
        Mismatch(
            "driver_version",
            f"the checkpoint was written by {manifest.driver} {manifest.driver_version}; server {host.node} has the older {there}",
            f"install {manifest.driver} {manifest.driver_version} or newer there",
        )
    ]


def _things(manifest: Manifest, host: HostFacts) -> list[Mismatch]:
    """What a restore builds on."""
    found = []
    image = manifest.container.image
    if image.digest not in host.images:
        found.append(Mismatch("image", f"image {image.short} of the container is not on server {host.node}", "give the image to the server first: it fetches it when a container of it is made there"))
    if manifest.parent is not None and manifest.parent not in host.checkpoints:
        found.append(Mismatch("parent", f"the checkpoint continues {manifest.parent}, which is not on server {host.node}", f"import checkpoint {manifest.parent} there first"))
    if manifest.volume_snapshot is not None and manifest.storage not in host.storage:
        found.append(Mismatch("storage", f"the volume's snapshot is of storage driver {manifest.storage}, which does not work on server {host.node}", f"set up storage driver {manifest.storage} there"))
    if host.free is not None and manifest.size > host.free:
        found.append(Mismatch("room", f"the checkpoint unpacks to {manifest.size} bytes; server {host.node} has {host.free} left", "remove old checkpoints there, or take another server"))
    return found
