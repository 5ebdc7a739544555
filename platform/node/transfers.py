"""Exported checkpoints between a server and the panel: each request carries a ticket for the file of one operation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import httpx

from hostler.core.errors import HostFailure, HostlerError, Invalid, NoRoom, Unavailable
from hostler.core.units import format_size
from hostler.mobility.drafts import told_of
from hostler.mobility.poured import Poured

_CHUNK = 1 << 20
#: The panel syncs what it was given before it answers.
_TIMEOUT = httpx.Timeout(60, connect=5, read=300)
#: Left free for all else that lives on the file system, in bytes.
_RESERVE = 64 << 20


def hand_in(url: str, write: Callable[[BinaryIO], object], limit: int) -> tuple[str, int]:
    """Give the panel what ``write`` writes, while it writes it, at most ``limit`` bytes; digest and size.

    Raises what ``write`` raises, :class:`Invalid` (``too_large``), and :class:`Unavailable` or :class:`HostFailure` for a panel that does not take it.
    """
    hasher, size = hashlib.sha256(), 0

    def body(source: Poured) -> Iterator[bytes]:
        nonlocal size
        piece = memoryview(bytearray(_CHUNK))
        while count := source.readinto(piece):
            size += count
            if size > limit:
                raise Invalid(
                    f"the checkpoint would be larger than {format_size(limit)}", hint="the provider's HOSTLER_CHECKPOINT_LIMIT bounds it", code="too_large"
                )
            hasher.update(piece[:count])
            yield bytes(piece[:count])

    with closing(Poured(write)) as source:
        try:
            response = httpx.put(url, content=body(source), timeout=_TIMEOUT)
        except httpx.HTTPError as error:
            raise Unavailable(f"the panel cannot be reached to take the checkpoint: {error}", hint="check HOSTLER_PANEL_URL on this server") from error
    digest = f"sha256:{hasher.hexdigest()}"
    if response.status_code != 201 or response.json().get("digest") != digest:
        raise _refused(response)
    return digest, size


def _refused(response: httpx.Response) -> HostlerError:
    """The panel's own words where it gave any."""
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        told = response.json()
        error = HostFailure(f"the panel did not take the checkpoint: {told['detail']}", hint=told["hint"], code=told["code"])
        error.http_status = response.status_code
        return error
    return HostFailure(f"the panel did not take the checkpoint: status {response.status_code}", hint=response.text[:300])


def fetch(url: str, size: int, digest: str, file: Path) -> None:
    """Get an uploaded checkpoint. Raises :class:`NoRoom` before anything is read, :class:`Invalid` for other bytes than those that were
    uploaded, :class:`Unavailable`."""
    disk = os.statvfs(file.parent)
    if (free := disk.f_bavail * disk.f_frsize - _RESERVE) < size:
        raise NoRoom(
            f"the checkpoint has {format_size(size)}; the server has {format_size(max(free, 0))} left for it",
            hint="free disk below its state folder, or take another server: --on NAME", code="disk_full",
        )
    hasher, got = hashlib.sha256(), 0
    try:
        with httpx.stream("GET", url, timeout=_TIMEOUT) as response, told_of(file), file.open("xb") as out:
            if response.status_code != 200:
                raise Unavailable(f"the panel refused the checkpoint with status {response.status_code}", hint="import it again", code="file_unavailable")
            for chunk in response.iter_bytes(_CHUNK):
                got += len(chunk)
                if got > size:
                    break
                hasher.update(chunk)
                out.write(chunk)
    except httpx.HTTPError as error:
        raise Unavailable(f"the panel cannot be reached for the checkpoint: {error}", hint="check HOSTLER_PANEL_URL on this server", code="file_unavailable") from error
    if got != size or f"sha256:{hasher.hexdigest()}" != digest:
        raise Invalid("what arrived is not what was uploaded", hint="import it again: its bytes were changed on the way or at rest", code="bad_digest")
