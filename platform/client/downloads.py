"""A download that appears under its name whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from hostler.core.errors import Unavailable
from hostler.mobility.drafts import check_absent, file_draft, told_of
from hostler.mobility.frames import put


def download(chunks: Iterable[bytes], file: Path, digest: str, advance: Callable[[int], None]) -> None:
    """Write ``chunks`` to a new file, mode 0600, which is on the disk when this returns; nothing is left if it raises.

    ``digest``: what their ``sha256:…`` must be. ``advance`` is called with each count of bytes. Raises :class:`Conflict` for a file that exists,
    :class:`Unavailable` for other bytes, :class:`NoRoom`, :class:`NotFound` for its folder, and what ``chunks`` raises.
    """
    check_absent(file)
    hasher = hashlib.sha256()
    with file_draft(file) as draft:
        with draft.path.open("wb", buffering=0) as out:
            for chunk in chunks:
                hasher.update(chunk)
                with told_of(file):
                    put(out, chunk)
                advance(len(chunk))
        if f"sha256:{hasher.hexdigest()}" != digest:
            raise Unavailable("what was downloaded is not what the server wrote", hint="export it again: it was cut or changed on the way", code="bad_digest")
        draft.appear(file)
