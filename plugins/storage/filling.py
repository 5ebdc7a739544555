"""Letting a caller write an image's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hostler.core.errors import NoRoom
from hostler.host.failures import is_full


def fill_image(image: str, folder: Path, fill: Callable[[Path], None], hint: str) -> None:
    """Call ``fill`` with the empty ``folder``. Its errors are passed on, but a full disk becomes :class:`NoRoom`."""
    folder.chmod(0o755)
    try:
        fill(folder)
    except Exception as error:
        if is_full(error) and not isinstance(error, NoRoom):
            raise NoRoom(f"the pool is full: image {image} does not fit", hint=hint, code="disk_full") from error
        raise
