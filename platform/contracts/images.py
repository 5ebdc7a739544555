"""Images: archives that hold a root file system, and how they are unpacked without harm.

Archives are hostile. An images driver refuses, with :class:`Invalid` and before or during unpacking, entries that
climb out of the root by name or by link, device nodes, and more bytes or entries than allowed; it
writes only below the folder it is given. The caller removes that folder after an error.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from hostler.contracts.driver import Capabilities, Driver
from hostler.core.specs import ImageConfig
from hostler.core.units import GIB


class ImagesCapabilities(Capabilities):
    """What an images driver may be able to do."""

    config: bool = False
    """The format says how to run the image (entry point, environment, user, ports)."""


class UnpackLimits(BaseModel):
    """How much an archive may unpack to."""

    bytes: int = 8 * GIB
    entries: int = 1_000_000


class Unpacked(BaseModel):
    """What was unpacked."""

    config: ImageConfig
    bytes: int
    entries: int
    architecture: str = ""


class Images(Driver):
    """Contract of group ``hostler.images``."""

    group: ClassVar[str] = "images"

    @property
    @abstractmethod
    def capabilities(self) -> ImagesCapabilities: ...

    @abstractmethod
    def accepts(self, archive: Path) -> bool:
        """Whether the file looks like this driver's format; reads little, never raises for content."""

    @abstractmethod
    def unpack(self, archive: Path, into: Path, limits: UnpackLimits) -> Unpacked:
        """Unpack the archive's root file system into the empty folder ``into``, owners, modes, times and
        extended attributes kept (as far as a tenant may have them)."""
