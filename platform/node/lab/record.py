"""What an installation was brought up with, kept in its home: later calls need not repeat it, and cannot mix two up."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hostler.core.errors import Invalid
from hostler.node.lab.layout import DEFAULT_HOME, Lab


class Record(BaseModel):
    """``etc/lab.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    installation: str = "main"
    panel_port: int = 8650
    machine_link: bool = True

    @staticmethod
    def file(home: Path) -> Path:
        """Where it lies."""
        return home / "etc/lab.json"

    @classmethod
    def of(cls, lab: Lab) -> Record:
        """A lab's."""
        return cls(installation=lab.installation, panel_port=lab.panel_port, machine_link=lab.machine_link)


def resolve(home: Path, installation: str | None, panel_port: int | None, machine_link: bool | None) -> Record:
    """What is asked for (None: not said), over what was recorded, over the defaults.

    Raises :class:`Invalid` for another installation than the home's, and for a home of one's own without an id of its own:
    two installations with one id would take each other's networks and cgroups down.
    """
    file = Record.file(home)
    known = Record.model_validate_json(file.read_text()) if file.is_file() else None
    if known is not None and installation is not None and installation != known.installation:
        raise Invalid(f"{home} is the home of installation {known.installation}, not {installation}", hint="leave --installation out, or give another --home")
    if known is None and installation is None and home != DEFAULT_HOME:
        raise Invalid(f"{home} holds no installation yet, and one of its own needs an id of its own", hint="give --installation ID too, such as --installation second")
    asked = {"installation": installation, "panel_port": panel_port, "machine_link": machine_link}
    return (known or Record()).model_copy(update={name: value for name, value in asked.items() if value is not None})
