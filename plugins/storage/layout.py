"""Where a storage driver keeps things in its pool, and what may be their names.

``POOL/hostler-INSTALLATION-NODE/images/IMAGE``, ``…/volumes/VOLUME``, ``…/snapshots/VOLUME/SNAPSHOT``. A name beginning with a dot is a draft or a
leftover: never in use unless its lock is held.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hostler.contracts.driver import Host, Item
from hostler.core.errors import Invalid

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_DRAFT = ".draft-"


def check_id(kind: str, name: str) -> str:
    """An id of an image or volume, which becomes a file name. Raises :class:`Invalid`."""
    if not _ID.fullmatch(name):
        raise Invalid(
            f"{name[:80]!r} cannot be the id of {kind}",
            hint="ids are 1 to 63 lower-case letters, digits and hyphens, beginning with a letter or digit",
        )
    return name


def draft_of(name: str) -> str:
    """The name that a thing has while it is made or unmade."""
    return f"{_DRAFT}{name}"


@dataclass(frozen=True)
class Layout:
    """Paths of one driver on one host."""

    base: Path

    @classmethod
    def of(cls, pool: Path, host: Host) -> Layout:
        """The layout of ``host``'s things in ``pool``."""
        return cls(pool / f"hostler-{host.installation}-{host.node}")

    @property
    def images(self) -> Path:
        """Folder of unpacked images."""
        return self.base / "images"

    @property
    def volumes(self) -> Path:
        """Folder of volumes."""
        return self.base / "volumes"

    @property
    def snapshots(self) -> Path:
        """Folder of folders of snapshots, by volume. Made when there is one."""
        return self.base / "snapshots"

    def snapshots_of(self, volume: str) -> Path:
        """Folder of a volume's snapshots. Raises :class:`Invalid` for what is no id."""
        return self.snapshots / check_id("a volume", volume)

    def snapshot(self, volume: str, snapshot: str) -> Path:
        """A snapshot's own. Raises :class:`Invalid` for what is no id."""
        return self.snapshots_of(volume) / check_id("a snapshot", snapshot)

    def image(self, image: str) -> Path:
        """An image's own. Raises :class:`Invalid` for what is no id."""
        return self.images / check_id("an image", image)

    def volume(self, volume: str) -> Path:
        """A volume's own. Raises :class:`Invalid` for what is no id."""
        return self.volumes / check_id("a volume", volume)

    def make(self) -> None:
        """Make the folders. Nobody but root may enter: what tenants made setuid lies below."""
        for folder in (self.base, self.images, self.volumes):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)

    def remove(self) -> None:
        """Remove the folders, which are empty; none is a success."""
        for folder in (self.snapshots, self.images, self.volumes, self.base):
            if folder.is_dir():
                folder.rmdir()

    def names(self, folder: Path) -> list[str]:
        """What is in ``images``, ``volumes`` or a volume's snapshots, without drafts."""
        return [name for name in _listed(folder) if not name.startswith(_DRAFT)]

    def volumes_with_snapshots(self) -> list[str]:
        """Volumes that have a folder of snapshots, whether they are there or not."""
        return _listed(self.snapshots)

    def drafts(self, folder: Path) -> list[str]:
        """Ids of which a folder holds a draft."""
        return [name.removeprefix(_DRAFT) for name in _listed(folder) if name.startswith(_DRAFT)]

    def inventory(self, thing: str) -> list[Item]:
        """Everything that is there; ``thing`` is what images and volumes are made of."""
        items = []
        for folder in (self.images, self.volumes):
            items += [Item(kind=thing, name=f"{folder.name}/{name}", owner=name) for name in self.names(folder)]
            items += [Item(kind="draft", name=f"{folder.name}/{draft_of(name)}", owner=name) for name in self.drafts(folder)]
        for volume in self.volumes_with_snapshots():
            folder = self.snapshots / volume
            items += [Item(kind=thing, name=f"snapshots/{volume}/{name}", owner=volume) for name in self.names(folder)]
            items += [Item(kind="draft", name=f"snapshots/{volume}/{draft_of(name)}", owner=volume) for name in self.drafts(folder)]
        return items


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
