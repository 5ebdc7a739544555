"""What the JSON documents of an OCI image say. Pure: bytes in, checked values out.

https://github.com/opencontainers/image-spec/blob/main/image-index.md, manifest.md, config.md; Docker's own
media types of the same shape; and ``manifest.json`` of ``docker save``.
"""

from __future__ import annotations

import os
import re
import signal
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel, to_pascal

from hostler.core.errors import Invalid
from hostler.core.specs import ImageConfig

Digest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")]

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_LAYER_TYPE = re.compile(
    r"application/vnd\.oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.gzip|\.zstd)?"
)
#: uname's machine → GOARCH, by which images name it.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "i686": "386",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
_MOST_LAYERS = 512
_Document = TypeVar("_Document", bound=BaseModel)


class _Json(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class Platform(_Json):
    """What a manifest in an index is for."""

    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(_Json):
    """A pointer to a blob: what it is, its size in bytes and its digest."""

    media_type: str = ""
    digest: Digest
    size: int = Field(ge=0)
    platform: Platform | None = None
    annotations: dict[str, str] = {}

    @property
    def reference(self) -> str:
        """The tag that the image was saved by, or its digest."""
        return self.annotations.get("org.opencontainers.image.ref.name", self.digest)


class Index(_Json):
    """index.json, or an index below it."""

    manifests: list[Descriptor] = Field(max_length=4096)


class Manifest(_Json):
    """One image for one platform."""

    config: Descriptor
    layers: list[Descriptor] = Field(max_length=_MOST_LAYERS)


class _Execution(BaseModel):
    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, extra="ignore", frozen=True)

    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: list[str] | None = None
    user: str | None = None
    working_dir: str | None = None
    exposed_ports: dict[str, object] | None = None
    stop_signal: str | None = None


class _RootFs(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    type: str = "layers"
    diff_ids: list[Digest] = Field(max_length=_MOST_LAYERS)


class Config(BaseModel):
    """The image's configuration."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    architecture: str
    os: str
    config: _Execution | None = None
    rootfs: _RootFs


class Saved(BaseModel):
    """One image in ``manifest.json`` of ``docker save``: paths in the archive."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, extra="ignore", frozen=True)

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] = Field(max_length=_MOST_LAYERS)


def bad_image(what: str) -> Invalid:
    """The error for an image that contradicts itself or the specification."""
    return Invalid(f"the image is not valid: {what}", hint="save or export it again", code="image_damaged")


def parse(model: type[_Document], text: bytes, what: str) -> _Document:
    """A document of the image. Raises :class:`Invalid`."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _malformed(what, error) from error


def parse_saved(text: bytes) -> list[Saved]:
    """``manifest.json``. Raises :class:`Invalid`."""
    try:
        return TypeAdapter(list[Saved]).validate_json(text)
    except ValidationError as error:
        raise _malformed("manifest.json", error) from error


def _malformed(what: str, error: ValidationError) -> Invalid:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    return bad_image(f"{what}: {where + ': ' if where else ''}{first['msg']}")


def machine_architecture() -> str:
    """This machine's architecture, as images name it."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def choose(manifests: list[Descriptor], architecture: str) -> Descriptor:
    """The one manifest, or index below, that may hold the image for Linux on ``architecture``.

    What says nothing of its platform may; its configuration will tell. Of several variants of an
    architecture the one without a name, then the first, is taken. Raises :class:`Invalid` when there is
    none, or when there are several images.
    """
    known = [item for item in manifests if item.media_type in (*INDEX_TYPES, *MANIFEST_TYPES, "")]
    fit = {item.digest: item for item in known if _fits(item.platform, architecture)}
    if not fit:
        offered = sorted({f"{item.platform.os}/{item.platform.architecture}" for item in known if item.platform})
        raise wrong_platform(", ".join(offered) or "no image at all", architecture)
    exact = [item for item in fit.values() if item.platform is not None]
    if exact:
        return min(exact, key=lambda item: item.platform is not None and item.platform.variant != "")
    if len(fit) > 1:
        raise several_images([item.reference for item in fit.values()])
    return next(iter(fit.values()))


def _fits(platform: Platform | None, architecture: str) -> bool:
    return platform is None or (platform.os == "linux" and platform.architecture == architecture)


def wrong_platform(offered: str, architecture: str) -> Invalid:
    """The error for an image made for other machines."""
    return Invalid(
        f"the archive holds no image for linux/{architecture}, but {offered}",
        hint=f"pull or build it with --platform linux/{architecture}, and save it again",
        code="image_wrong_platform",
    )


def several_images(names: list[str]) -> Invalid:
    """The error for an archive of more than one image."""
    return Invalid(
        f"the archive holds {len(names)} images: {', '.join(names[:8])}",
        hint="save one image alone",
        code="image_ambiguous",
    )


def check_platform(config: Config, architecture: str) -> None:
    """Raise :class:`Invalid` unless the configuration is for Linux on ``architecture``."""
    if (config.os, config.architecture) != ("linux", architecture):
        raise wrong_platform(f"{config.os}/{config.architecture}", architecture)


def check_manifest(manifest: Manifest) -> None:
    """Raise :class:`Invalid` for a manifest that is no container image (a Helm chart, a signature) or has encrypted layers."""
    if manifest.config.media_type not in _CONFIG_TYPES:
        raise bad_image(f"it is no container image but {manifest.config.media_type[:100]!r}")
    for layer in manifest.layers:
        if not _LAYER_TYPE.fullmatch(layer.media_type):
            raise bad_image(f"a layer of the unknown type {layer.media_type[:100]!r}")


def image_config(config: Config) -> ImageConfig:
    """How the image wants to be run. Raises :class:`Invalid` for what no process can be given."""
    run = config.config or _Execution()
    words = (*(run.entrypoint or ()), *(run.cmd or ()), *(run.env or ()), run.user or "", run.working_dir or "")
    if any("\0" in word for word in words):
        raise bad_image("a NUL byte in its configuration")
    if any("=" not in item or item.startswith("=") for item in run.env or ()):
        raise bad_image("a variable of its environment is not of the form NAME=value")
    workdir = run.working_dir or "/"
    return ImageConfig(
        entrypoint=tuple(run.entrypoint or ()),
        cmd=tuple(run.cmd or ()),
        env=tuple(run.env or ()),
        user=run.user or "",
        workdir=workdir if workdir.startswith("/") else f"/{workdir}",
        ports=tuple(sorted(port if "/" in port else f"{port}/tcp" for port in run.exposed_ports or {})),
        stop_signal=_signal_name(run.stop_signal or "SIGTERM"),
    )


def _signal_name(text: str) -> str:
    """``SIGQUIT`` for ``SIGQUIT``, ``QUIT`` or ``3``; real-time signals as ``SIGRTMIN+3``."""
    name = text.strip().upper()
    if name.isdigit() and int(name) in set(signal.Signals):
        return signal.Signals(int(name)).name
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name in signal.Signals.__members__ or re.fullmatch(r"SIGRTM(IN\+|AX-)\d{1,2}", name):
        return name
    raise bad_image(f"{text[:40]!r} is no signal")
