"""The driver under test: found by ``group:name``, or by ``group:module:Class`` before it is an entry point."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostler.contracts.driver import Driver, Host
from hostler.core.errors import Invalid, NotFound
from hostler.core.names import new_id
from hostler.node.drivers import CONTRACTS, extensions
from hostler.testing.fakes import FAKES

#: Settings with which our own drivers work in the kit's environments. ``{folder}`` is a folder of the test's own,
#: ``{small}`` one on a file system of 192 MB, ``{uplink}`` an interface to a switch.
KNOWN: dict[str, dict[str, Any]] = {
    "storage:btrfs": {"pool": "{folder}/pool", "file": "{folder}/pool.btrfs", "size": "256M", "reserve": "8M"},
    "storage:overlay": {"pool": "{small}", "reserve": "8M"},
    "storage:loop": {"pool": "{small}", "reserve": "8M"},
    "net:bridge": {"uplink": "{uplink}"},
    "net:routed": {"uplink": "{uplink}"},
    "net:macvlan": {"uplink": "{uplink}"},
    "net:vxlan": {"uplink": "{uplink}", "peers": ["198.18.0.12"]},
}


@dataclass(frozen=True)
class Recipe:
    """How to make the driver, in this process or another. ``netns``: path of the network namespace it works in."""

    driver: str
    host: Host
    netns: Path | None = None

    def make(self) -> Driver:
        """A driver object, as a worker that has just started has it."""
        return driver_class(self.driver)(self.host)


def driver_class(spec: str) -> type[Driver]:
    """The class of ``group:name`` or ``group:module:Class``. Raises :class:`NotFound`, or :class:`Invalid` for what is no driver."""
    group, _, rest = spec.partition(":")
    contract = CONTRACTS.get(group)
    if contract is None:
        raise Invalid(f"there is no group {group!r}", hint=f"write group:name with a group of {', '.join(CONTRACTS)}")
    found = _found(group, rest)
    if not (isinstance(found, type) and issubclass(found, contract)):
        raise Invalid(f"{spec} is no {contract.__name__} of hostler.contracts", hint="derive it from the contract's class")
    chosen: type[Driver] = found
    return chosen


def _found(group: str, rest: str) -> Any:
    if rest == "fake":
        return FAKES[group]
    if ":" in rest:
        module, _, name = rest.partition(":")
        return getattr(importlib.import_module(module), name)
    broken: dict[str, BaseException] = {}
    found = {extension.name: extension.plugin for extension in extensions(group, lambda _, entry, error: broken.update({entry.name: error}))}
    if rest in broken:
        raise Invalid(f"driver {group}:{rest} cannot be imported: {broken[rest]}", hint="mend its module") from broken[rest]
    if rest not in found:
        raise NotFound(f"no installed package has driver {group}:{rest}", hint=f"there are: {', '.join(sorted(found)) or 'none'}; fake is always there")
    return found[rest]


def host_for(spec: str, folder: Path, libexec: Path, given: str | None, places: dict[str, str]) -> Host:
    """A host of its own installation below ``folder``. ``given``: settings as JSON instead of the known ones."""
    found = driver_class(spec)
    template = json.loads(given) if given else KNOWN.get(spec, {})
    settings = {key: value.format(**places) if isinstance(value, str) else value for key, value in template.items()}
    return Host(
        installation="c" + new_id(6), node="alpha", state_dir=folder / "state", libexec=libexec, settings={f"{found.group}:{found.name}": settings}
    )
