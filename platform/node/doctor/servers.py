"""Whose drivers the doctor judges: this server's by its environment, or all servers' of the installation by their files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hostler.core.errors import Invalid
from hostler.host import lab
from hostler.host.netns import FOLDER
from hostler.node.lab.layout import parse_env
from hostler.settings import NodeSettings

#: Where a server's settings lie that is no lab's (docs/operating.md).
SYSTEM = Path("/etc/hostler")
_JSON = ("drivers", "drivers_enabled")


@dataclass(frozen=True)
class Place:
    """A server on this machine. ``netns``: the network namespace that stands for it in a lab."""

    settings: NodeSettings
    netns: Path | None = None


def servers(settings: NodeSettings, system: Path = SYSTEM) -> list[Place]:
    """The servers that ``settings`` mean: the one they are of, else those whose files lie in the home folder or in ``system``.

    Nothing there: one with these settings. Raises :class:`PermissionError` where the files are not for this user, :class:`Invalid` for
    one that no server could be started with.
    """
    if not settings.node:
        for folder in (settings.home / "etc", system):
            found = list(_written(folder, settings))
            if found:
                return found
    return [Place(settings)]


def _written(folder: Path, settings: NodeSettings) -> Iterator[Place]:
    shared = folder / "platform.env"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in (file for file in files if fnmatchcase(file.name, "node-*.env")):
        values = {name: text for each in (shared, file) if each.exists() for name, text in _read(each).items()}
        own = _settings(file, values)
        if own.installation == settings.installation:
            space = FOLDER / lab.server_netns(own.installation, own.node)
            yield Place(own, space if space.exists() else None)


def _read(file: Path) -> dict[str, str]:
    """Our settings in it; others, such as HOME, concern the process alone."""
    return parse_env("\n".join(line for line in file.read_text().splitlines() if line.lstrip().startswith("HOSTLER_")))


def _settings(file: Path, values: dict[str, str]) -> NodeSettings:
    """As the server's worker reads them, which has nothing else in its environment."""

    told: dict[str, Any] = {name.removeprefix("HOSTLER_").lower(): text for name, text in values.items()}
    try:
        for name in _JSON:
            if name in told:
                told[name] = json.loads(told[name])
        return NodeSettings.model_validate(told)
    except ValueError as error:
        raise Invalid(f"{file}: {error}", hint="docs/operating.md lists the settings") from error
