"""What a kind of operation is: one class a file, registered by name.

The life of an operation: ``begin`` plans the steps in the transaction that claims it; servers run them; then
``succeeded``, or, after the undos ran backwards, ``failed``. All of these run in the control worker inside one store transaction and do no other I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport
from hostler.operations.steps import Step
from hostler.operations.tickets import Tickets
from hostler.placement.choose import Overcommit
from hostler.store.addresses import Pool
from hostler.store.models import Operation


@dataclass(frozen=True)
class Provider:
    """What operations know of the installation: its pool, ratios, and how servers fetch archives."""

    pool: Pool
    overcommit: Overcommit
    tickets: Tickets
    blob_dir: Path
    image_limit: int
    checkpoint_limit: int = 64 << 30

    @property
    def transfer_dir(self) -> Path:
        """Where exported checkpoints are on their way."""
        return self.blob_dir / "transfers"


class Kind(ABC):
    """One kind of operation."""

    name: ClassVar[str]
    #: Seconds that one run of its steps may go unheard before it is taken to be lost.
    lease: ClassVar[float] = 15.0

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    @abstractmethod
    def begin(self, session: Session, op: Operation) -> list[Step]:
        """Check what only now can be checked, set the target's state between, and plan. A HostlerError fails the operation."""

    def instead(self, session: Session, op: Operation, error: ErrorReport) -> list[Step]:
        """Steps of another way to do what was asked, after all of the first way's undos have run; none: there is no other, and it has failed."""
        return []

    @abstractmethod
    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        """Write down the outcome."""

    @abstractmethod
    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        """Every undo has run (or ``begin`` refused): leave the target in a state with a name."""
