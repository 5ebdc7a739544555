"""Environment of images drivers: archives in the driver's format, honest and hostile."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any, cast

from hostler.contracts.images import Images, Unpacked, UnpackLimits
from hostler.core.errors import HostlerError
from hostler.testing.arenas.arena import Arena, Scene
from hostler.testing.content import NAMES
from hostler.testing.fakes import images as fake_images
from hostler.testing.zygote import Call

#: path, kind (f file, d folder, l symbolic link, h hard link, c device), content or target.
Entry = tuple[str, str, str]

HONEST: tuple[Entry, ...] = (
    ("bin", "d", ""), ("etc", "d", ""), ("etc/hosts", "f", "127.0.0.1 localhost\n"), ("etc/climbs", "l", "../../../etc/shadow"),
    *((f"etc/{name}", "f", name) for name in NAMES),
)  # fmt: skip
#: Archives that a driver refuses, by what is wrong with them. ``{stray}`` is a name outside of the root.
HOSTILE: dict[str, tuple[Entry, ...]] = {
    "a name that climbs": (("../{stray}", "f", "out"),),
    "a name that climbs later": (("etc/../../{stray}", "f", "out"),),
    "a device": (("etc/disk", "c", ""),),
}
#: Archives that write through links: refused, or led to where the links lead when the image is the root.
LINKS: dict[str, tuple[Entry, ...]] = {
    "a link that climbs": (("etc/door", "l", "../.."), ("etc/door/{stray}", "f", "out")),
    "an absolute link": (("etc/door", "l", "{outside}"), ("etc/door/{stray}", "f", "out")),
    "a link to a link": (("etc/a", "l", "../../.."), ("etc/b", "l", "a/.."), ("etc/b/{stray}", "f", "out")),
}
#: Formats that the kit can make archives in, by driver.
FORMATS = ("rootfs", "oci", "fake")


class ImagesArena(Arena):
    """See the module."""

    @property
    def images(self) -> Images:
        """The driver by its contract."""
        return cast(Images, self.driver)

    @property
    def format(self) -> str:
        """The format of the driver's archives."""
        if self.fake:
            return "fake"
        name = self.driver.name
        if name not in FORMATS:
            raise LookupError(f"the kit makes archives of {', '.join(FORMATS)}; a driver of another format needs archives of its own")
        return name

    def archive(self, entries: tuple[Entry, ...]) -> Path:
        """An archive of the honest entries and these."""
        places = {"stray": "stray", "outside": str(self.folder)}
        chosen = [(name.format(**places), kind, text.format(**places)) for name, kind, text in (*HONEST, *entries)]
        content = {"rootfs": _tar, "oci": _oci, "fake": _fake}[self.format](chosen)
        file = self.folder / f"archive-{hashlib.sha256(content).hexdigest()[:8]}"
        file.write_bytes(content)
        return file

    def unpack(self, archive: Path, limits: UnpackLimits | None = None) -> tuple[Path, Unpacked]:
        """Unpack into a folder of its own, two below the environment's; what the driver said."""
        into = self.folder / f"into-{os.urandom(4).hex()}/root"
        into.mkdir(parents=True)
        return into, self.images.unpack(archive, into, limits or UnpackLimits())

    def strays(self) -> list[Path]:
        """Files that an archive wrote outside of its root."""
        return [path for path in self.folder.rglob("stray") if "root" not in path.relative_to(self.folder).parts]

    def scenes(self, number: int = 0) -> list[Scene]:
        return []

    def absent(self) -> list[tuple[Call, type[HostlerError] | None]]:
        return []

    def hostile(self, name: str) -> list[Call]:
        return []


def _tar(entries: list[Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, text in entries:
            info = tarfile.TarInfo(name)
            info.type = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "c": tarfile.CHRTYPE}[kind]
            info.mode = 0o755 if kind == "d" else 0o644
            info.linkname = text if kind in "lh" else ""
            data = text.encode() if kind == "f" else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _oci(entries: list[Entry]) -> bytes:
    """An image layout of one layer: https://github.com/opencontainers/image-spec/blob/main/image-layout.md"""
    layer = _tar(entries)
    files: dict[str, bytes] = {}

    def blob(content: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        files[f"blobs/sha256/{digest}"] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    rootfs = {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}
    config = {"architecture": machine, "os": "linux", "config": {"Cmd": ["serve"]}, "rootfs": rootfs}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [blob(layer, "layer.v1.tar")],
    }
    index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")]}
    files |= {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode()}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _fake(entries: list[Entry]) -> bytes:
    tree = {name: (kind, 0o755, text if kind == "l" else base64.b64encode(text.encode()).decode()) for name, kind, text in entries}
    return fake_images.archive(tree)
