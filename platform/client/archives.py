"""Archives made where the command line runs: an OCI image layout folder as the one file that is uploaded."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import BinaryIO

from hostler.core.errors import Invalid

_BLOB = re.compile(r"sha256/[0-9a-f]{64}|sha512/[0-9a-f]{128}")


def is_layout(folder: Path) -> bool:
    """Whether a folder is an OCI image layout."""
    return (folder / "oci-layout").is_file() and (folder / "index.json").is_file()


def tar_layout(folder: Path, out: BinaryIO) -> None:
    """Write an OCI image layout as a tar.

    The same layout gives the same bytes, whoever owns the files and whenever they were written. What is
    no part of a layout is left out. The documents come first, so that a reader knows at once what it has.
    Raises :class:`Invalid` for a folder that is no layout.
    """
    if not is_layout(folder):
        raise Invalid(
            f"{folder} is no OCI image layout: it lacks oci-layout or index.json",
            hint="make one with `skopeo copy … oci:FOLDER` or `buildah push … oci:FOLDER`",
        )
    blobs = sorted(path.relative_to(folder).as_posix() for path in (folder / "blobs").glob("*/*"))
    kept = [name for name in blobs if _BLOB.fullmatch(name.removeprefix("blobs/"))]
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name in ("oci-layout", "index.json", *kept):
            with open(folder / name, "rb") as file:
                entry = tarfile.TarInfo(name)
                entry.size = (folder / name).stat().st_size
                entry.mode = 0o644
                tar.addfile(entry, file)
