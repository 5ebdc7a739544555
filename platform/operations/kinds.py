"""All kinds of operation, by name."""

from __future__ import annotations

from hostler.operations.delete import Delete
from hostler.operations.execute import Exec
from hostler.operations.image import BuildImage, DeleteImage, ImportImage
from hostler.operations.kind import Kind, Provider
from hostler.operations.power import Restart, Start, Stop
from hostler.operations.provision import Provision
from hostler.operations.resize import Resize

KINDS: tuple[type[Kind], ...] = (Provision, Start, Stop, Restart, Resize, Delete, Exec, ImportImage, BuildImage, DeleteImage)


def all_kinds(provider: Provider) -> dict[str, Kind]:
    """An object of each kind, by name."""
    return {kind.name: kind(provider) for kind in KINDS}
