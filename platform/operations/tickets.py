"""Tickets: signed words with which a server may fetch or hand in one archive, for a while.

A ticket names one purpose and one thing, so it is of no other use to whoever sees it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from hostler.core.errors import Denied

#: Seconds that a ticket is good for.
LIFETIME = 3600


class Tickets:
    """Makes and checks tickets with a key that the panel and the control worker share."""

    def __init__(self, key: bytes, panel_url: str) -> None:
        self._serializer = URLSafeTimedSerializer(key, salt="hostler-ticket")
        self._panel = panel_url.rstrip("/")

    def issue(self, purpose: str, thing: str) -> str:
        """A ticket for ``purpose`` (``fetch``, ``store``, ``take``, ``hand in``) on ``thing`` (a digest, an operation's id)."""
        return self._serializer.dumps([purpose, thing])

    def check(self, ticket: str, purpose: str, thing: str) -> None:
        """Raise :class:`Denied` unless the ticket is ours, fresh, and for exactly this."""
        try:
            said = self._serializer.loads(ticket, max_age=LIFETIME)
        except SignatureExpired as error:
            raise Denied("the ticket has expired", hint="start the operation again", code="bad_ticket") from error
        except BadSignature as error:
            raise Denied("the ticket is not one of ours", hint="use the address as it was given", code="bad_ticket") from error
        if said != [purpose, thing]:
            raise Denied("the ticket is for something else", hint="use the address as it was given", code="bad_ticket")

    def fetch_url(self, digest: str) -> str:
        """Where a server gets the archive of ``digest``."""
        return f"{self._panel}/v1/blobs/{digest}?ticket={self.issue('fetch', digest)}"

    def store_url(self, operation: str) -> str:
        """Where a server hands in the archive that ``operation`` built."""
        return f"{self._panel}/v1/blobs?operation={operation}&ticket={self.issue('store', operation)}"

    def take_url(self, operation: str) -> str:
        """Where a server gets the checkpoint that was uploaded for ``operation``."""
        return f"{self._panel}/v1/transfers/{operation}?ticket={self.issue('take', operation)}"

    def hand_in_url(self, operation: str) -> str:
        """Where a server hands in the checkpoint that ``operation`` exports."""
        return f"{self._panel}/v1/transfers/{operation}?ticket={self.issue('hand in', operation)}"


def load_key(path: Path) -> bytes:
    """The signing key; made on first use, readable by its owner only."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(temporary, path)  # of two that start at once, one wins
        except FileExistsError:
            return path.read_bytes()
        finally:
            temporary.unlink()
        return path.read_bytes()
