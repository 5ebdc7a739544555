"""Images driver ``oci``: an OCI image layout as a tar archive, and what ``docker save`` writes.

https://github.com/opencontainers/image-spec: image-layout.md, layer.md. Trust goes down a chain of digests: the
archive's index names the manifest's, the manifest the configuration's and the layers', the configuration
those of the layers decompressed (diff_ids). Each blob is verified before it is parsed or unpacked.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hostler.contracts.driver import Item, Probe
from hostler.contracts.images import Images, ImagesCapabilities, Unpacked, UnpackLimits
from hostler.core.errors import Invalid
from hostler_plugins.images import oci_layout as layout
from hostler_plugins.images.probe import probe_host
from hostler_plugins.images.rules import parts_of
from hostler_plugins.images.sniff import sniff
from hostler_plugins.images.stream import (
    CHUNK,
    Budget,
    Hashed,
    Slice,
    Stream,
    compression,
    damaged,
    decompressed,
)
from hostler_plugins.images.tar import Entry, Kind, entries, shown
from hostler_plugins.images.unpack import Tree

#: Bytes of a JSON document, and how many entries an archive of blobs may have.
_DOCUMENT = 4 << 20
_BLOBS = 20_000
_NESTING = 4
_LINK_HOPS = 4
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."


class Oci(Images):
    """OCI image archives, such as those of skopeo, buildah, podman, docker, crane and umoci."""

    name = "oci"

    @property
    def capabilities(self) -> ImagesCapabilities:
        return ImagesCapabilities(config=True)

    def probe(self) -> Probe:
        return probe_host()

    def inventory(self) -> list[Item]:
        """Nothing: temporary files have no name, and what is unpacked belongs to the storage driver."""
        return []

    def accepts(self, archive: Path) -> bool:
        return sniff(archive) == "oci"

    def unpack(self, archive: Path, into: Path, limits: UnpackLimits) -> Unpacked:
        budget = Budget(limits)
        architecture = layout.machine_architecture()
        with self._plain(archive, limits) as fd:
            image = _find(_Blobs(fd), architecture)
            with Tree(into, budget) as tree:
                for layer in image.layers:
                    _apply(layer, tree, budget)
                tree.finish()
        return Unpacked(
            config=layout.image_config(image.config),
            bytes=budget.bytes,
            entries=budget.entries,
            architecture=architecture,
        )

    @contextmanager
    def _plain(self, archive: Path, limits: UnpackLimits) -> Iterator[int]:
        """A descriptor of the archive, decompressed into a nameless file where it is compressed as a whole."""
        fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
        try:
            whole = Slice.whole(fd)
            if not compression(whole.again().read(6)):
                yield fd
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as copy:
                stream = Stream(decompressed(whole), Budget(limits))
                while data := stream.take(CHUNK):
                    copy.write(data)
                copy.flush()
                yield copy.fileno()
        finally:
            os.close(fd)


@dataclass(frozen=True)
class _Layer:
    blob: Slice
    diff_id: str


@dataclass(frozen=True)
class _Image:
    config: layout.Config
    layers: list[_Layer]


class _Blobs:
    """The files in an uncompressed archive, by name."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._files: dict[str, Slice] = {}
        self._links: dict[str, str] = {}
        self._verified: set[str] = set()
        whole = Slice.whole(fd)
        stream = Stream(whole, Budget(UnpackLimits(bytes=whole.size)))
        for count, entry in enumerate(entries(stream)):
            if count == _BLOBS:
                raise layout.bad_image(f"its archive holds more than {_BLOBS} files")
            self._note(entry)

    def _note(self, entry: Entry) -> None:
        name = b"/".join(parts_of(entry.name)).decode("utf-8", "surrogateescape")
        link = entry.link.decode("utf-8", "surrogateescape")
        match entry.kind:
            case Kind.FILE if entry.segments is None:
                self._files[name] = Slice(self._fd, entry.offset, entry.size)
            case Kind.SYMLINK:
                self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
            case Kind.HARDLINK:
                self._links[name] = posixpath.normpath(link)
            case Kind.FOLDER:
                return
            case _:
                raise layout.bad_image(f"its archive holds {shown(entry.name)}, which is no plain file")

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self._links

    def find(self, name: str) -> Slice:
        """A file by its name; ``docker save`` links layers that images share. Raises :class:`Invalid`."""
        wanted = posixpath.normpath(name)
        for _ in range(_LINK_HOPS):
            wanted = self._links.get(wanted, wanted)
        if wanted not in self._files:
            raise layout.bad_image(f"{name[:200]!r} is missing in its archive")
        return self._files[wanted].again()

    def document(self, name: str) -> bytes:
        """A small file's content. Raises :class:`Invalid`."""
        part = self.find(name)
        if part.size > _DOCUMENT:
            raise layout.bad_image(f"{name[:200]!r} is larger than 4 MiB")
        return part.read(part.size)

    def blob(self, descriptor: layout.Descriptor) -> Slice:
        """A blob, verified. Raises :class:`Invalid`."""
        part = self.find(_blob_path(descriptor.digest))
        if part.size != descriptor.size:
            raise layout.bad_image(f"{descriptor.digest} has {part.size} bytes instead of {descriptor.size}")
        self.verify(part, descriptor.digest)
        return part

    def verify(self, part: Slice, digest: str) -> None:
        """Raise :class:`Invalid` when the bytes are not those of ``digest``. Once a digest, however often it is named."""
        if digest not in self._verified:
            verify(part, digest)
            self._verified.add(digest)

    def blob_document(self, descriptor: layout.Descriptor) -> bytes:
        """A verified blob's content, when it is a document. Raises :class:`Invalid`."""
        if descriptor.size > _DOCUMENT:
            raise layout.bad_image(f"{descriptor.digest} is larger than 4 MiB")
        return self.blob(descriptor).read(descriptor.size)


def _blob_path(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"blobs/{algorithm}/{encoded}"


def verify(part: Slice, digest: str) -> None:
    """Raise :class:`Invalid` when the bytes are not those of ``digest``."""
    algorithm, _, wanted = digest.partition(":")
    total = hashlib.new(algorithm)
    rest = part.again()
    while data := rest.read(CHUNK):
        total.update(data)
    if total.hexdigest() != wanted:
        raise Invalid(
            f"{digest} does not match its content",
            hint="the archive was changed or damaged; save and upload it again",
            code="image_digest_mismatch",
        )


# --- from the archive to the layers ---


def _find(blobs: _Blobs, architecture: str) -> _Image:
    if "index.json" in blobs:
        return _from_index(blobs, architecture)
    if "manifest.json" in blobs:
        return _from_saved(blobs, architecture)
    raise layout.bad_image("its archive holds neither index.json nor manifest.json")


def _from_index(blobs: _Blobs, architecture: str) -> _Image:
    index = layout.parse(layout.Index, blobs.document("index.json"), "index.json")
    for _ in range(_NESTING):
        chosen = layout.choose(index.manifests, architecture)
        text = blobs.blob_document(chosen)
        if chosen.media_type not in layout.INDEX_TYPES:
            return _from_manifest(blobs, layout.parse(layout.Manifest, text, "its manifest"), architecture)
        index = layout.parse(layout.Index, text, "an index")
    raise layout.bad_image(f"more than {_NESTING} indexes below each other")


def _from_manifest(blobs: _Blobs, manifest: layout.Manifest, architecture: str) -> _Image:
    layout.check_manifest(manifest)
    config = layout.parse(layout.Config, blobs.blob_document(manifest.config), "its configuration")
    layout.check_platform(config, architecture)
    _check_count(len(manifest.layers), config)
    parts = [blobs.blob(layer) for layer in manifest.layers]
    return _Image(config, [_Layer(*pair) for pair in zip(parts, config.rootfs.diff_ids, strict=True)])


def _from_saved(blobs: _Blobs, architecture: str) -> _Image:
    saved = layout.parse_saved(blobs.document("manifest.json"))
    found: list[tuple[layout.Saved, layout.Config]] = []
    for item in saved:
        if match := re.search(r"(?:^|[/:])([0-9a-f]{64})(?:\.json)?$", item.config):
            blobs.verify(blobs.find(item.config), f"sha256:{match[1]}")
        found.append((item, layout.parse(layout.Config, blobs.document(item.config), "its configuration")))
    fit = [pair for pair in found if (pair[1].os, pair[1].architecture) == ("linux", architecture)]
    if not fit:
        offered = ", ".join(sorted({f"{config.os}/{config.architecture}" for _, config in found}))
        raise layout.wrong_platform(offered or "no image at all", architecture)
    if len(fit) > 1:
        raise layout.several_images([(item.repo_tags or [item.config])[0] for item, _ in fit])
    item, config = fit[0]
    _check_count(len(item.layers), config)
    layers = []
    for name, diff_id in zip(item.layers, config.rootfs.diff_ids, strict=True):
        part = blobs.find(name)
        if not compression(part.again().read(6)):
            blobs.verify(part, diff_id)
        layers.append(_Layer(part, diff_id))
    return _Image(config, layers)


def _check_count(layers: int, config: layout.Config) -> None:
    if config.rootfs.type != "layers" or layers != len(config.rootfs.diff_ids):
        raise layout.bad_image(f"{layers} layers, but {len(config.rootfs.diff_ids)} diff_ids")


# --- layers ---


def _apply(layer: _Layer, tree: Tree, budget: Budget) -> None:
    """Lay one layer over the tree. Its decompressed bytes are hashed on the way, and compared at the end."""
    algorithm, _, wanted = layer.diff_id.partition(":")
    source = Hashed(decompressed(layer.blob.again()), algorithm)
    stream = Stream(source, budget)
    tree.begin_layer()
    # Some builders write layers without an end marker; the digest tells whether one was cut.
    for entry in entries(stream, end_required=False):
        _apply_entry(entry, tree, stream)
    stream.drain()
    if source.hexdigest != wanted:
        raise Invalid(
            f"a layer does not unpack to its diff_id {layer.diff_id}",
            hint="the archive was changed or damaged; save and upload it again",
            code="image_digest_mismatch",
        )


def _apply_entry(entry: Entry, tree: Tree, stream: Stream) -> None:
    """An entry, or the absence that it stands for (layer.md, "Whiteouts")."""
    parts = parts_of(entry.name)
    if not any(part.startswith(_WHITEOUT) for part in parts):
        tree.add(entry, stream)
    elif parts[-1] == _OPAQUE:
        tree.opaque(parts[:-1])
    elif any(part.startswith(_AUFS) for part in parts):
        return  # housekeeping of aufs, in layers of its time
    elif (hidden := parts[-1].removeprefix(_WHITEOUT)) in (b"", b".", b"..", parts[-1]):
        raise damaged(f"{shown(entry.name)} has the prefix of a whiteout and is none")
    else:
        tree.whiteout([*parts[:-1], hidden])
