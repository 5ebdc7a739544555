"""Writing a checkpoint stream: to a file, which appears whole or not at all, or to anything that takes bytes."""

from __future__ import annotations

import io
import os
import secrets
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pydantic import ValidationError

from hostler.core.errors import Conflict, HostFailure, Invalid, NotFound
from hostler.mobility.drafts import check_absent, file_draft, told_of
from hostler.mobility.filters import Packer, Place, chosen, sealer
from hostler.mobility.frames import Chunk, FrameWriter, Source, Target, fill
from hostler.mobility.keys import Key
from hostler.mobility.manifest import (
    PARTS_LIMIT,
    SEALED_NAME,
    Cipher,
    Manifest,
    PartInfo,
    PartKind,
    encode,
    first_problem,
    public,
)

#: Threads that filter; zstd, SHA-256 and file system calls run without the interpreter's lock.
LANES: Final = min(4, os.cpu_count() or 1)
#: Smaller chunks are filtered where they are: handing them to another thread takes longer.
SMALL: Final = 32 << 10
#: Stored bytes after which the disk is set to work, so that little is left to wait for at the end.
_SYNC_EVERY: Final = 16 << 20

#: Called with the bytes of the originals that are done; what it raises ends the work and leaves nothing behind.
Progress = Callable[[int], None]


class PartReader(Source, Protocol):
    """An open part."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class PartSource:
    """A part to be written. ``open`` is called once, when its turn comes; ``size`` is in bytes, none if only the end tells."""

    name: str
    kind: PartKind
    open: Callable[[], PartReader]
    size: int | None = None


def of_file(path: Path, name: str, kind: PartKind) -> PartSource:
    """A part of a regular file, which must not change until it is written. Raises :class:`NotFound`, :class:`Invalid`."""
    try:
        about = path.lstat()
    except FileNotFoundError as error:
        raise NotFound(f"{path} is not there to be put into a checkpoint", hint="take the checkpoint again") from error
    if not stat.S_ISREG(about.st_mode):
        raise Invalid(f"{path} is no regular file", hint="a checkpoint holds files only")
    return PartSource(name, kind, lambda: _opened(path), about.st_size)


def _opened(path: Path) -> PartReader:
    return io.FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def of_bytes(content: bytes, name: str, kind: PartKind) -> PartSource:
    """A part that is in memory."""
    return PartSource(name, kind, lambda: io.BytesIO(content), len(content))


def of_folder(folder: Path, prefix: str = "") -> list[PartSource]:
    """All files of a folder of CRIU images, by name: ``pages-*`` as memory, the others as state. Sockets and the like, which
    CRIU leaves there of its own, are no part. ``prefix`` is a folder's name inside the checkpoint."""
    parts = []
    for path in sorted(folder.iterdir()):
        if stat.S_ISREG(path.lstat().st_mode):
            kind = PartKind.MEMORY if path.name.startswith("pages-") else PartKind.STATE
            parts.append(of_file(path, f"{prefix}/{path.name}" if prefix else path.name, kind))
    return parts


@dataclass(frozen=True)
class Summary:
    """What was written. ``digest`` is the checkpoint's identity, in hex; ``stored`` has no headers in it; both are bytes."""

    manifest: Manifest
    original: int
    stored: int
    digest: str


def write(
    target: Path,
    manifest: Manifest,
    parts: Iterable[PartSource],
    *,
    key: Key | None = None,
    level: int = 1,
    cipher: Cipher = Cipher.AES_256_GCM,
    replace: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Write a checkpoint file, mode 0600; it is on the disk when this returns, and nothing is left if it raises.

    Raises :class:`NoRoom`, :class:`Conflict` if the target exists and is not to be replaced, :class:`Invalid` for names, levels and parts that
    are no good, :class:`NotFound`, :class:`HostFailure`.
    """
    if not replace:
        check_absent(target)
    with file_draft(target) as draft:
        with Disk(draft.handle, target) as disk:
            summary = write_to(disk, manifest, parts, key=key, level=level, cipher=cipher, progress=progress)
        draft.appear(target, replace=replace)
    return summary


def write_to(
    target: Target,
    manifest: Manifest,
    parts: Iterable[PartSource],
    *,
    key: Key | None = None,
    level: int = 1,
    cipher: Cipher = Cipher.AES_256_GCM,
    progress: Progress | None = None,
) -> Summary:
    """Write a checkpoint to anything that takes bytes, such as the wire; it is neither flushed nor closed.

    What the target raises is passed on. Raises :class:`Invalid`, and :class:`Conflict` for a part that changed meanwhile.
    """
    told, sources = _planned(manifest, tuple(parts), key, level, cipher)
    frames = FrameWriter(target)
    digest = frames.prefix(encode(told))
    seal = sealer(told.filters.encryption, key, digest)
    with ThreadPoolExecutor(LANES, "checkpoint") as pool:
        work = _Work(frames, pool, [Packer(told.filters, seal) for _ in range(LANES + 3)], progress or (lambda done: None))
        for index, (info, source) in enumerate(zip(told.parts, sources, strict=True)):
            with closing(_begun(source)) as reader:
                work.part(index, info, reader)
    whole = frames.trailer(len(sources))
    return Summary(told, frames.total.original, frames.total.stored, whole.hex())


def _begun(source: PartSource) -> PartReader:
    try:
        return source.open()
    except OSError as error:
        raise HostFailure(f"part {source.name} cannot be read: {error.strerror}", hint="take the checkpoint again") from error


def _planned(manifest: Manifest, sources: tuple[PartSource, ...], key: Key | None, level: int, cipher: Cipher) -> tuple[Manifest, tuple[PartSource, ...]]:
    """The manifest as it will be written, and the parts, the sealed spec among them."""
    if any(source.kind is PartKind.CONTAINER for source in sources):
        raise Invalid("the container's spec is written by the stream itself", hint="leave parts of kind `container` out")
    if key is not None:
        spec = public(manifest.container, sealed=False).model_dump_json().encode()
        sources = (of_bytes(spec, SEALED_NAME, PartKind.CONTAINER), *sources)
    if len(sources) > PARTS_LIMIT:
        raise Invalid(f"a checkpoint of {len(sources)} parts is too large", hint=f"at most {PARTS_LIMIT} parts are allowed: pack small files together")
    fields = {
        **{name: getattr(manifest, name) for name in Manifest.model_fields},
        "container": public(manifest.container, sealed=key is not None),
        "parts": tuple({"name": source.name, "kind": source.kind, "size": source.size} for source in sources),
        "filters": chosen(level, key, cipher, secrets.token_bytes(32)),
        "sealed": key is not None,
    }
    try:
        return Manifest.model_validate(fields), sources
    except ValidationError as error:
        raise Invalid(f"the checkpoint cannot be written: {first_problem(error)}", hint="look at the names of its parts") from error


class _Work:
    """Takes parts through the filters in parallel, and writes their chunks in order."""

    def __init__(self, frames: FrameWriter, pool: ThreadPoolExecutor, packers: list[Packer], progress: Progress) -> None:
        self._frames = frames
        self._pool = pool
        self._idle = packers
        self._depth = len(packers) - 2  # two more are held by the reading ahead
        self._waiting: deque[tuple[Packer, Future[tuple[Chunk, bytes | memoryview]]]] = deque()
        self._progress = progress

    def part(self, index: int, info: PartInfo, reader: PartReader) -> None:
        self._frames.part(index, info)
        for number, (packer, length, last) in enumerate(self._chunks(info, reader)):
            if len(self._waiting) == self._depth:
                self._write_one()
            self._waiting.append((packer, self._begin(packer, length, Place(index, number), last)))
        while self._waiting:
            self._write_one()
        size = self._frames.part_end()
        if info.size not in (None, size):
            raise Conflict(f"part {info.name} had {info.size} bytes and has {size} now", hint="it changed while it was written: take the checkpoint again")

    def _begin(self, packer: Packer, length: int, place: Place, last: bool) -> Future[tuple[Chunk, bytes | memoryview]]:
        if length > SMALL:
            return self._pool.submit(packer.pack, length, place, last)
        done: Future[tuple[Chunk, bytes | memoryview]] = Future()
        done.set_result(packer.pack(length, place, last))
        return done

    def _chunks(self, info: PartInfo, reader: PartReader) -> Iterator[tuple[Packer, int, bool]]:
        """Packers filled with chunk after chunk. Whether one is the last shows when no more can be read after it."""
        packer = self._idle.pop()
        length = self._read(info, reader, packer)
        while length == len(packer.original):
            following = self._idle.pop()
            more = self._read(info, reader, following)
            if more == 0:
                self._idle.append(following)
                break
            yield packer, length, False
            packer, length = following, more
        yield packer, length, True

    @staticmethod
    def _read(info: PartInfo, reader: PartReader, packer: Packer) -> int:
        try:
            return fill(reader, packer.original)
        except (OSError, ValueError) as error:
            raise HostFailure(f"part {info.name} cannot be read: {error}", hint="take the checkpoint again") from error

    def _write_one(self) -> None:
        packer, future = self._waiting.popleft()
        chunk, data = future.result()
        self._frames.chunk(chunk, data)
        self._idle.append(packer)
        self._progress(self._frames.total.original)


class Disk:
    """The file ``where`` being written, whose disk begins to work at once, in a thread of its own. Raises what it says, typed."""

    def __init__(self, handle: int, where: Path) -> None:
        self._handle = handle
        self._where = where
        self._pool = ThreadPoolExecutor(1, "checkpoint-sync")
        self._syncing: Future[None] | None = None
        self._unsynced = 0

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        self._pool.shutdown(wait=True)
        if failure is None:
            self._check()

    def _check(self) -> None:
        """A failure to write back is told once, to whoever synced: the last sync of all would not hear of it."""
        if self._syncing is not None:
            with told_of(self._where):
                self._syncing.result()

    def write(self, data: bytes | memoryview, /) -> int:
        """Returns the bytes that were taken, perhaps not all."""
        with told_of(self._where):
            count = os.write(self._handle, data)
        self._unsynced += count
        if self._unsynced >= _SYNC_EVERY and (self._syncing is None or self._syncing.done()):
            self._check()
            self._unsynced = 0
            self._syncing = self._pool.submit(os.fdatasync, self._handle)
        return count
