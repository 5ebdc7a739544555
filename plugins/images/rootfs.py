"""Images driver ``rootfs``: a plain tar of a root file system, compressed with gzip, xz, bzip2, zstd or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from hostler.contracts.driver import Item, Probe
from hostler.contracts.images import Images, ImagesCapabilities, Unpacked, UnpackLimits
from hostler.core.errors import Invalid
from hostler.core.specs import ImageConfig
from hostler_plugins.images.probe import probe_host
from hostler_plugins.images.sniff import ROOT_FOLDERS, sniff
from hostler_plugins.images.stream import Budget, Slice, Stream, decompressed
from hostler_plugins.images.unpack import Tree, unpack_tar


class Rootfs(Images):
    """Root file system tarballs, such as those of debootstrap, mmdebstrap, `docker export` and LXC."""

    name = "rootfs"

    @property
    def capabilities(self) -> ImagesCapabilities:
        return ImagesCapabilities()

    def probe(self) -> Probe:
        return probe_host()

    def inventory(self) -> list[Item]:
        """Nothing: what is unpacked belongs to the storage driver."""
        return []

    def accepts(self, archive: Path) -> bool:
        return sniff(archive) == "rootfs"

    def unpack(self, archive: Path, into: Path, limits: UnpackLimits) -> Unpacked:
        budget = Budget(limits)
        fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with Tree(into, budget) as tree:
                unpack_tar(Stream(decompressed(Slice.whole(fd)), budget), tree)
                check_root(tree)
                tree.finish()
        finally:
            os.close(fd)
        return Unpacked(config=ImageConfig(), bytes=budget.bytes, entries=budget.entries)


def check_root(tree: Tree) -> None:
    """Raise :class:`Invalid` when what was unpacked is no root file system."""
    if not any(tree.has_folder(name) for name in ROOT_FOLDERS):
        raise Invalid(
            "the archive is no root file system: it has no folder bin, usr, sbin, etc or lib",
            hint="archive the content of the root, not the folder itself: `tar -C ROOT -c .`",
            code="image_not_root",
        )
