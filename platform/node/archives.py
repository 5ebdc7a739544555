"""Image archives on a server: fetched from the panel, verified byte by byte, unpacked once, handed in when built here."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import structlog

from hostler.contracts.images import Images, Unpacked, UnpackLimits
from hostler.contracts.storage import Storage
from hostler.core.errors import HostFailure, Invalid, NoRoom, Unavailable
from hostler.core.specs import ImageSpec
from hostler.core.units import format_size

log = structlog.get_logger()

_CHUNK = 1 << 20
_TIMEOUT = httpx.Timeout(30, connect=5)


class Archives:
    """Moves archives between the panel and this server. ``scratch`` is a folder of the node on its disk file system."""

    def __init__(self, scratch: Path, drivers: Callable[[], list[Images]]) -> None:
        self._scratch = scratch
        self._drivers = drivers

    @contextmanager
    def fetched(self, image: ImageSpec) -> Iterator[Path]:
        """The archive as a file for the block's time. Raises :class:`Invalid` when its bytes are not what the digest says,
        :class:`Unavailable` when the panel does not give it."""
        with self.workspace() as folder:
            file = folder / "archive"
            digest = self._download(image, file)
            if digest != image.digest:
                raise Invalid(
                    f"the archive's digest is {digest}, not {image.digest}", hint="upload it again: its bytes were changed on the way or at rest", code="bad_digest"
                )
            yield file

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty folder for the block's time."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def clean(self) -> None:
        """Remove what a killed worker left. Called once, before any work."""
        if self._scratch.is_dir():
            shutil.rmtree(self._scratch)

    def _download(self, image: ImageSpec, file: Path) -> str:
        hasher, size = hashlib.sha256(), 0
        try:
            with httpx.stream("GET", image.url, timeout=_TIMEOUT) as response, file.open("wb") as out:
                if response.status_code == 404:
                    raise Unavailable("the image's archive has vanished from the panel", hint="import the image again", code="image_vanished")
                if response.status_code != 200:
                    raise Unavailable(f"the panel refused the image's archive with status {response.status_code}", hint="try again", code="image_unavailable")
                for chunk in response.iter_bytes(_CHUNK):
                    size += len(chunk)
                    if size > image.size:
                        raise Invalid(f"the archive is longer than {format_size(image.size)}", hint="import the image again", code="bad_digest")
                    hasher.update(chunk)
                    out.write(chunk)
        except httpx.HTTPError as error:
            raise Unavailable(f"the panel cannot be reached for the image's archive: {error}", hint="check HOSTLER_PANEL_URL on this server", code="image_unavailable") from error
        except OSError as error:
            raise _explained(error) from error
        return f"sha256:{hasher.hexdigest()}"

    def hand_in(self, url: str, file: Path) -> tuple[str, int]:
        """Give the panel an archive that was built here; its digest and size."""
        hasher = hashlib.sha256()
        with file.open("rb") as source:
            while chunk := source.read(_CHUNK):
                hasher.update(chunk)
        digest = f"sha256:{hasher.hexdigest()}"
        try:
            with file.open("rb") as source:
                response = httpx.put(url, content=source, timeout=_TIMEOUT, headers={"Content-Length": str(file.stat().st_size)})
        except httpx.HTTPError as error:
            raise Unavailable(f"the panel cannot be reached to take the archive: {error}", hint="check HOSTLER_PANEL_URL on this server") from error
        if response.status_code != 201 or response.json().get("digest") != digest:
            raise HostFailure(f"the panel did not take the archive: status {response.status_code}", hint=response.text[:300])
        return digest, file.stat().st_size

    def unpack(self, image: ImageSpec, archive: Path, storage: Storage, limits: UnpackLimits) -> tuple[Images, Unpacked | None]:
        """Unpack into ``storage``, once. The driver that understood it, and what was learned (None: it was there already)."""
        driver = self.driver_for(archive)
        learned: list[Unpacked] = []
        try:
            storage.add_image(image.short, lambda folder: learned.append(driver.unpack(archive, folder, limits)))
        except OSError as error:
            raise _explained(error) from error
        return driver, learned[0] if learned else None

    def driver_for(self, archive: Path) -> Images:
        """The first images driver that accepts the archive. Raises :class:`Invalid`."""
        for driver in self._drivers():
            if driver.accepts(archive):
                return driver
        raise Invalid(
            "the file is neither an OCI image nor a root file system tarball",
            hint="give a tar of a root file system, or an OCI layout or `docker save` archive",
            code="unknown_format",
        )


def _explained(error: OSError) -> Exception:
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return NoRoom(f"the server's disk is full: {error}", hint="free space in its pool, or use another server", code="disk_full")
    return HostFailure(f"cannot write the archive: {os.strerror(error.errno or 0)}", hint="hostler doctor on the server tells more")
