"""The folder of image archives, and that of checkpoints on their way. A file appears under its digest, or its operation, whole or not at all.

Uploads go into a file without a name (``O_TMPFILE``, open(2)), so that whatever ends one, even the panel's own
death, leaves nothing behind. Linking it (linkat(2)) gives it its name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from hostler.core.errors import HostFailure, HostlerError, Invalid, NoRoom, NotFound
from hostler.core.units import format_size

_CHUNK = 1 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class TooLarge(HostlerError):
    """An archive is larger than the panel takes."""

    code = "too_large"
    status = 413


@dataclass(frozen=True)
class Upload:
    """An archive that has arrived whole and has no name yet."""

    descriptor: int
    digest: str
    size: int
    folder: Path

    def keep(self, name: str | None = None) -> bool:
        """Give it its name: its digest where none is said. False: there is one already, which serves as well. Raises :class:`HostFailure`."""
        folder = os.open(self.folder, os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A folder's descriptor makes Python call linkat(2), which alone follows the link in /proc to the file.
            os.link(f"/proc/self/fd/{self.descriptor}", name or self.digest.removeprefix("sha256:"), dst_dir_fd=folder, follow_symlinks=True)
            os.fsync(folder)
        except FileExistsError:
            return False
        except OSError as error:
            raise _explained(error) from error
        finally:
            os.close(folder)
        return True


def path_of(folder: Path, digest: str) -> Path:
    """Where an archive is. Raises :class:`NotFound` for one that is not there, or a digest that is none."""
    path = folder / digest.removeprefix("sha256:")
    if not _DIGEST.fullmatch(digest) or not path.is_file():
        raise NotFound("there is no such archive", hint="import the image again", code="unknown_blob")
    return path


def check_promised(expected: int | None, limit: int, setting: str) -> None:
    """Raise :class:`TooLarge` for a request that says so, before its stream is touched."""
    if expected is not None and expected > limit:
        raise _too_large(limit, setting)


@contextmanager
def received(stream: IO[bytes], folder: Path, limit: int, expected: int | None, setting: str = "HOSTLER_IMAGE_LIMIT") -> Iterator[Upload]:
    """Take an archive from a request. ``expected``: bytes that its header promised; none of one whose end tells. ``setting`` bounds it.

    Raises :class:`TooLarge`, :class:`Invalid` when it breaks off or is empty, :class:`NoRoom` when the disk is full.
    """
    check_promised(expected, limit, setting)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _explained(error) from error
    try:
        digest, size = _copied(stream, descriptor, limit, setting)
        if size == 0 or (expected is not None and size != expected):
            raise Invalid("the archive broke off before its end", hint="send it again", code="incomplete")
        yield Upload(descriptor, digest, size, folder)
    finally:
        os.close(descriptor)


def _copied(stream: IO[bytes], descriptor: int, limit: int, setting: str) -> tuple[str, int]:
    hasher, size = hashlib.sha256(), 0
    try:
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise _too_large(limit, setting)
            hasher.update(chunk)
            _write(descriptor, chunk)
    except RequestEntityTooLarge as error:
        raise _too_large(limit, setting) from error
    except (ClientDisconnected, OSError) as error:  # the latter: of chunks without an end
        raise Invalid("the archive broke off before its end", hint="send it again", code="incomplete") from error
    _sync(descriptor)
    return f"sha256:{hasher.hexdigest()}", size


def _write(descriptor: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError as error:
        raise _explained(error) from error


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise _explained(error) from error


def _too_large(limit: int, setting: str) -> TooLarge:
    return TooLarge(f"the archive is larger than {format_size(limit)}", hint=f"make it smaller; the provider's {setting} bounds it")


def _explained(error: OSError) -> HostlerError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom("the panel's disk is full", hint="its operators free space in the folder of archives", code="disk_full")
    if error.errno == errno.EOPNOTSUPP:
        return HostFailure("the file system of the archives' folder has no O_TMPFILE", hint="put HOSTLER_BLOBS on ext4, xfs, btrfs or tmpfs")
    return HostFailure(f"the archive cannot be written: {os.strerror(error.errno or 0)}", hint="the panel's operators look at HOSTLER_BLOBS")
