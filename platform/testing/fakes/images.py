"""Fake images: an archive is a line that says so, then JSON with files and a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from hostler.contracts.driver import Host, Item, Probe
from hostler.contracts.images import Images, ImagesCapabilities, Unpacked, UnpackLimits
from hostler.core.errors import Invalid
from hostler.core.specs import ImageConfig
from hostler.host.failures import explained
from hostler.testing.fakes import trees
from hostler.testing.faults import Faults

_MAGIC = b"hostler fake image\n"


def archive(tree: trees.Tree, config: ImageConfig | None = None) -> bytes:
    """An archive of ``tree``."""
    return _MAGIC + json.dumps({"tree": tree, "config": (config or ImageConfig()).model_dump(mode="json")}).encode()


class FakeImages(Images):
    """Driver ``fake``."""

    name: ClassVar[str] = "fake"

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.faults = Faults(host.state_dir)

    @property
    def capabilities(self) -> ImagesCapabilities:
        return ImagesCapabilities(config=True)

    def probe(self) -> Probe:
        return Probe(offers=["JSON"])

    def inventory(self) -> list[Item]:
        return []

    def accepts(self, archive: Path) -> bool:
        with archive.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC

    def unpack(self, archive: Path, into: Path, limits: UnpackLimits) -> Unpacked:
        self.faults.passing("images.unpack")
        tree, config = _parsed(archive.read_bytes())
        total = sum(len(content) * 3 // 4 for _, _, content in tree.values())
        if len(tree) > limits.entries or total > limits.bytes:
            raise Invalid("the archive unpacks to more than it may", hint="leave out what is not needed", code="image_too_large")
        strange = [name for name, (kind, _, _) in tree.items() if kind not in ("f", "d", "l")]
        if strange:
            raise Invalid(f"{strange[0]!r} is a device", hint="an image holds files, folders and links", code="image_hostile")
        with explained(f"unpack into {into}"):
            trees.write(into, tree)
        self.faults.passing("images.unpack:done")
        return Unpacked(config=config, bytes=total, entries=len(tree))


def _parsed(content: bytes) -> tuple[trees.Tree, ImageConfig]:
    try:
        body: Any = json.loads(content.removeprefix(_MAGIC))
        tree = {str(name): (str(kind), int(mode), str(data)) for name, (kind, mode, data) in body["tree"].items()}
        return tree, ImageConfig.model_validate(body["config"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"the archive cannot be read: {error}", hint="make it again", code="image_broken") from error
