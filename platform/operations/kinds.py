"""All kinds of operation, by name."""

from __future__ import annotations

from hostler.operations.checkpoint import DeleteCheckpoint, TakeCheckpoint
from hostler.operations.clone import Clone
from hostler.operations.delete import Delete
from hostler.operations.execute import Exec
from hostler.operations.image import BuildImage, DeleteImage, ImportImage
from hostler.operations.kind import Kind, Provider
from hostler.operations.migrate import Migrate
from hostler.operations.power import Restart, Start, Stop
from hostler.operations.provision import Provision
from hostler.operations.reap import Reap
from hostler.operations.resize import Resize
from hostler.operations.restore import Restore
from hostler.operations.resume import Resume
from hostler.operations.suspend import Discard, Suspend
from hostler.operations.transfer import ExportCheckpoint, ImportCheckpoint

KINDS: tuple[type[Kind], ...] = (
    Provision, Start, Stop, Restart, Resize, Delete, Exec, ImportImage, BuildImage, DeleteImage,
    Suspend, Discard, Resume, Migrate, Reap, TakeCheckpoint, DeleteCheckpoint, Restore, Clone, ExportCheckpoint,
    ImportCheckpoint,
)  # fmt: skip


def all_kinds(provider: Provider) -> dict[str, Kind]:
    """An object of each kind, by name."""
    return {kind.name: kind(provider) for kind in KINDS}
