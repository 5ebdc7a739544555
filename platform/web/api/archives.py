"""An archive and the row that speaks of it come to be together or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import func, select

from hostler.store.models import Image
from hostler.web.panel import panel


@contextmanager
def removed_unless_used(digest: str) -> Iterator[None]:
    """When the block raises, remove the archive again, unless some image has these bytes."""
    try:
        yield
    except BaseException:
        with panel().store.write() as session:
            if not session.scalar(select(func.count()).select_from(Image).where(Image.digest == digest)):
                (panel().settings.blob_dir / digest.removeprefix("sha256:")).unlink(missing_ok=True)
        raise
