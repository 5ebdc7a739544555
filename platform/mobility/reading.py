"""Reading a checkpoint stream: what it says of itself, whether it is whole, and its parts as files."""

from __future__ import annotations

import io
import os
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from hostler.core.errors import Invalid
from hostler.core.specs import ContainerSpec
from hostler.mobility.drafts import folder_draft, told_of
from hostler.mobility.filters import Place, Sealer, Unpacker, sealer
from hostler.mobility.frames import Chunk, FrameReader, Source, damaged
from hostler.mobility.keys import Key
from hostler.mobility.landing import Landing
from hostler.mobility.manifest import MANIFEST_LIMIT, Manifest, PartInfo, PartKind
from hostler.mobility.writing import LANES, SMALL, Progress

#: A file by its path, or a stream that stands at a checkpoint's beginning.
Origin = Path | Source


@dataclass(frozen=True)
class StoredPart:
    """A part as it lies in the stream: ``size`` of the original, ``stored`` bytes after the filters."""

    name: str
    kind: PartKind
    size: int
    stored: int
    chunks: int


@dataclass(frozen=True)
class Inspection:
    """A checkpoint without its data. ``digest`` is its identity, in hex."""

    manifest: Manifest
    parts: tuple[StoredPart, ...]
    digest: str

    @property
    def size(self) -> int:
        """Bytes of all originals."""
        return sum(part.size for part in self.parts)

    @property
    def stored(self) -> int:
        """Bytes of all parts after the filters."""
        return sum(part.stored for part in self.parts)


def read_manifest(origin: Origin, key: Key | None = None) -> Manifest:
    """The manifest alone. With the key of an encrypted checkpoint it has the container's process too, and is authenticated.

    Of a stream just so much is read. Raises :class:`Invalid`, and :class:`NotFound` for a path.
    """
    with _opened(origin) as source:
        frames = FrameReader(source)
        manifest, digest = frames.prefix()
        if key is None or not manifest.sealed:
            return manifest
        sink = _Spec()
        with _Work(frames, manifest, sealer(manifest.filters.encryption, key, digest)) as work:
            work.part(0, manifest.parts[0], sink)
        return sink.unsealed(manifest)


def inspect(path: Path) -> Inspection:
    """What the checkpoint holds, without its data and without a key: all headers and their digests are checked, a cut file is seen,
    and a changed bit in the data is not (:func:`verify`). Raises :class:`Invalid`, :class:`NotFound`."""
    with told_of(path), _file(path) as source:
        frames = FrameReader(source)
        manifest, _ = frames.prefix()
        parts = tuple(_skipped(index, info, frames, source) for index, info in enumerate(manifest.parts))
        digest = frames.trailer(len(parts))
        frames.ended()
    return Inspection(manifest, parts, digest.hex())


def _skipped(index: int, info: PartInfo, frames: FrameReader, source: io.FileIO) -> StoredPart:
    frames.part(index, info)
    stored = chunks = 0
    last = False
    while not last:
        chunk = frames.chunk(info)
        source.seek(chunk.stored, os.SEEK_CUR)  # past the end is seen at the next header
        stored, chunks, last = stored + chunk.stored, chunks + 1, chunk.last
    return StoredPart(info.name, info.kind, frames.part_end(info), stored, chunks)


def verify(origin: Origin, key: Key | None = None, *, progress: Progress | None = None) -> Manifest:
    """Read all of a checkpoint and raise :class:`Invalid` with what is wrong with it, if anything is.

    Without a key an encrypted one is held against its digests alone: that sees every accident, and no forger.
    """
    with _opened(origin) as source:
        return _through(source, isinstance(origin, Path), key, lambda info: _NOWHERE, keyless=key is None, progress=progress)


def extract(
    origin: Origin, folder: Path, key: Key | None = None, *, leave_out: Collection[PartKind] = (), progress: Progress | None = None
) -> Manifest:
    """Write all parts, but those of the kinds to ``leave_out``, to files of ``folder``, which appears whole or not at all, and return the full manifest.

    The folder must not exist yet, or be empty and no mount point. Files have mode 0600, its folders 0700; zeros become
    holes. Raises :class:`Invalid`, :class:`Conflict`, :class:`NoRoom`, :class:`NotFound`, :class:`HostFailure`; what a stream raises is passed on.
    """
    with _opened(origin) as source, folder_draft(folder) as root:
        landing = Landing(root, folder)
        try:
            return _through(
                source, isinstance(origin, Path), key, lambda info: _NOWHERE if info.kind in leave_out else landing.file(info), keyless=False, progress=progress
            )
        finally:
            landing.close()


def through(origin: Origin, key: Key | None, sink_of: Callable[[PartInfo], Sink]) -> Manifest:
    """Take all of a checkpoint through a sink for each part, and return the full manifest. Raises as :func:`extract`, and what a sink raises."""
    with _opened(origin) as source:
        return _through(source, isinstance(origin, Path), key, sink_of, keyless=False, progress=None)


class Sink(Protocol):
    """Where a part's original goes; chunks come from several threads, in any order."""

    def place(self, data: memoryview, offset: int, zeros: bool) -> None: ...

    def finish(self, size: int) -> None: ...


class _Nowhere:
    def place(self, data: memoryview, offset: int, zeros: bool) -> None:
        """Verified data is of no further use."""

    def finish(self, size: int) -> None:
        """Nothing was kept."""


_NOWHERE = _Nowhere()


@dataclass
class _Spec:
    """Keeps the sealed spec in memory."""

    pieces: dict[int, bytes] = field(default_factory=dict)

    def place(self, data: memoryview, offset: int, zeros: bool) -> None:
        if offset + len(data) > MANIFEST_LIMIT:
            raise damaged("its container's spec is too long")
        self.pieces[offset] = bytes(data)

    def finish(self, size: int) -> None:
        """All of it is here."""

    def unsealed(self, manifest: Manifest) -> Manifest:
        """The manifest with the container's whole spec."""
        try:
            container = ContainerSpec.model_validate_json(b"".join(self.pieces[offset] for offset in sorted(self.pieces)))
        except ValidationError as error:
            raise damaged("its container's spec is not one") from error
        if container.id != manifest.container.id:
            raise damaged("its manifest and its container's spec are of two containers")
        return manifest.model_copy(update={"container": container})


@contextmanager
def _opened(origin: Origin) -> Iterator[Source]:
    """The file of a path; a stream as it is, which its owner closes."""
    if isinstance(origin, Path):
        with told_of(origin), _file(origin) as file:
            yield file
    else:
        yield origin


def _file(path: Path) -> io.FileIO:
    """Opened without waiting for what a pipe or a device in its place would make wait."""
    with told_of(path):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return io.FileIO(handle, "rb")
    os.close(handle)
    raise Invalid(f"{path} is no regular file", hint="name a checkpoint's file")


def _through(source: Source, to_its_end: bool, key: Key | None, sink_of: Callable[[PartInfo], Sink], *, keyless: bool, progress: Progress | None) -> Manifest:
    """Take the whole stream through ``sink_of`` each part; the full manifest."""
    frames = FrameReader(source)
    manifest, digest = frames.prefix()
    sealed = manifest.filters.encryption is not None
    seal = None if keyless else sealer(manifest.filters.encryption, key, digest)
    spec = _Spec()
    with _Work(frames, manifest, seal, opened=not (keyless and sealed), progress=progress) as work:
        for index, info in enumerate(manifest.parts):
            own = info.kind is PartKind.CONTAINER
            work.part(index, info, spec if own else sink_of(info))
    frames.trailer(len(manifest.parts))
    if to_its_end:
        frames.ended()
    return spec.unsealed(manifest) if manifest.sealed and work.opened else manifest


class _Work:
    """Takes chunks from the stream in order, and through the filters to their sink in parallel."""

    def __init__(self, frames: FrameReader, manifest: Manifest, seal: Sealer | None, *, opened: bool = True, progress: Progress | None = None) -> None:
        self._frames = frames
        self._size = manifest.filters.chunk
        self._idle = [Unpacker(manifest.filters, seal) for _ in range(LANES + 2)]
        self._waiting: deque[tuple[Unpacker, Future[None]]] = deque()
        self._pool = ThreadPoolExecutor(LANES, "checkpoint")
        self._progress = progress
        self.opened = opened

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def part(self, index: int, info: PartInfo, sink: Sink) -> None:
        self._frames.part(index, info)
        number, last = 0, False
        while not last:
            if not self._idle:
                self._await_one()
            chunk, unpacker = self._frames.chunk(info), self._idle.pop()
            self._frames.data(unpacker.room(chunk.stored), info)
            self._begin(unpacker, chunk, Place(index, number), info.name, sink)
            number, last = number + 1, chunk.last
        while self._waiting:
            self._await_one()
        sink.finish(self._frames.part_end(info))

    def _begin(self, unpacker: Unpacker, chunk: Chunk, place: Place, name: str, sink: Sink) -> None:
        if chunk.original > SMALL:
            self._waiting.append((unpacker, self._pool.submit(self._one, unpacker, chunk, place, name, sink)))
            return
        self._one(unpacker, chunk, place, name, sink)
        self._idle.append(unpacker)

    def _one(self, unpacker: Unpacker, chunk: Chunk, place: Place, name: str, sink: Sink) -> None:
        if self.opened:
            data, zeros = unpacker.unpack(chunk, place, name)
            sink.place(data, place.number * self._size, zeros)
        else:
            unpacker.check(chunk, name)

    def _await_one(self) -> None:
        unpacker, future = self._waiting.popleft()
        future.result()
        self._idle.append(unpacker)
        if self._progress is not None:
            self._progress(self._frames.total.original)
