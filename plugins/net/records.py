"""What was promised to a link, kept in a file: so that its rules can be taken back without reading everybody's from the kernel.

A record is written before the first rule is added and removed after the last is gone. It may be missing (a lost disk) or
tell of rules that are not there (a killed worker, a reboot): who reads it must take both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from hostler.core.specs import Link
from hostler.host.failures import explained


class Record(BaseModel):
    """One link of one container."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    container: str
    link: Link
    pid: int = 0
    """A process in the link's network namespace, and that namespace's inode."""
    namespace: int = 0


@dataclass(frozen=True)
class Records:
    """The records of one node, a file a link, called like its interface."""

    folder: Path

    def write(self, name: str, record: Record) -> None:
        """Keep a record, in place of an older one. Atomic. Raises :class:`NoRoom` on a full disk."""
        temporary = self.folder / f".{name}"
        with explained(f"keep a record of link {name}"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                temporary.write_text(record.model_dump_json())
                os.replace(temporary, self.folder / name)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def read(self, name: str) -> Record | None:
        """None where there is no record, or one that another version wrote and this one cannot read."""
        try:
            return Record.model_validate_json((self.folder / name).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def remove(self, name: str) -> None:
        """None is a success."""
        (self.folder / name).unlink(missing_ok=True)

    def names(self, prefix: str) -> list[str]:
        """Names of the links that have a record and begin with ``prefix``."""
        if not self.folder.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self.folder) if entry.name.startswith(prefix))
