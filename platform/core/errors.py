"""Errors that carry a stable code, a sentence for a person, and a hint what to do next.

Two families, kept apart by type:

* :class:`HostlerError`: somebody asked for what cannot be done, or a host lacks something. It is reported
  with its code and hint and never with a traceback.
* everything else is a bug. Whoever catches one at a process's outer edge turns it into
  :class:`ErrorReport` with :meth:`ErrorReport.of`, which keeps the traceback for operators.
"""

from __future__ import annotations

import traceback
from typing import ClassVar

from pydantic import BaseModel, Field


class HostlerError(Exception):
    """Base of all expected errors.

    ``code`` is stable and part of the API: lower case, words joined by ``_``. ``status`` is the HTTP status
    with which the API reports it. ``hint`` says what to do next; it may be empty only where nothing can be done.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.stable_code = code or type(self).code
        self.http_status = type(self).status

    def __str__(self) -> str:
        return self.message


class Invalid(HostlerError):
    """The request itself is wrong: a bad name, size or combination."""

    code = "invalid"
    status = 422


class NotFound(HostlerError):
    """The thing does not exist, or belongs to another account, which must look the same."""

    code = "not_found"
    status = 404


class Conflict(HostlerError):
    """The thing exists already, or its state does not allow this."""

    code = "conflict"
    status = 409


class Denied(HostlerError):
    """The caller is known and may not do this."""

    code = "denied"
    status = 403


class Unauthenticated(HostlerError):
    """No token, or one that is unknown, revoked or expired."""

    code = "unauthenticated"
    status = 401


class NoRoom(HostlerError):
    """No server, pool or quota has room for this."""

    code = "no_room"
    status = 409


class Unsupported(HostlerError):
    """A driver's capability is false, or the host's kernel lacks the feature."""

    code = "unsupported"
    status = 422


class HostFailure(HostlerError):
    """A command or system call on a server failed in a way that the platform did not cause."""

    code = "host_failure"
    status = 502


class Timeout(HostlerError):
    """Something took longer than it may."""

    code = "timeout"
    status = 504


class Unavailable(HostlerError):
    """A server, the broker or the store cannot be reached now; the same request may work later."""

    code = "unavailable"
    status = 503


class Stale(HostlerError):
    """A message carries a lower fencing number than this server has seen: someone else took over."""

    code = "stale"
    status = 409


class ErrorReport(BaseModel):
    """An error as it is stored in an operation, sent over the broker and shown."""

    code: str
    message: str
    hint: str = ""
    bug: bool = Field(default=False, description="true for an unexpected error: a defect of the platform")
    status: int = 500
    traceback: str | None = Field(default=None, description="only of bugs; shown to operators only")

    @classmethod
    def of(cls, error: BaseException) -> ErrorReport:
        """Report of any exception. Bugs keep their traceback."""
        if isinstance(error, HostlerError):
            return cls(code=error.stable_code, message=error.message, hint=error.hint, status=error.http_status)
        return cls(
            code="internal",
            message=f"unexpected {type(error).__name__}: {error}",
            hint="this is a defect of the platform; its operators find the traceback in the operation",
            bug=True,
            traceback="".join(traceback.format_exception(error))[-8000:],
        )

    def raised(self) -> HostlerError:
        """The report as an exception again, for a caller in another process."""
        error = HostlerError(self.message, hint=self.hint, code=self.code)
        error.http_status = self.status
        return error
