"""The one door to the panel: requests, problems, retries, streams. Nothing else on this side imports httpx.

A request that may safely be sent twice is tried again when the connection fails: reads, and changes, since each
change carries an ``Idempotency-Key`` of its own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import httpx
from pydantic import ValidationError

from hostler.core.api import Problem
from hostler.core.errors import HostlerError, Timeout, Unavailable

#: Seconds to wait before each further try.
PAUSES = (0.1, 0.4)
#: Seconds of silence after which a stream is taken to be dead; the panel sends a comment every 10.
STREAM_SILENCE = 30.0
_PIECE = 1 << 18


@dataclass(frozen=True)
class ServerSentEvent:
    """One event of a stream."""

    name: str
    data: str


class Http:
    """HTTP to one panel."""

    def __init__(self, url: str, token: str, timeout: float) -> None:
        """``timeout``: seconds that one try may be without an answer."""
        self.url = url.rstrip("/")
        headers = {"User-Agent": f"hostler/{version('hostler')}", "Accept": "application/json, application/problem+json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)))
        except httpx.InvalidURL as error:
            raise Unavailable(f"{url} is not an address: {error}", hint="give one such as https://panel.example", code="bad_url") from error

    def request(self, method: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        """Send a request; the answer's JSON, None for an empty one. Raises :class:`HostlerError` as the panel's problem says."""
        headers = {} if method == "GET" else {"Idempotency-Key": str(uuid.uuid4())}
        params = {key: value for key, value in (query or {}).items() if value is not None}
        for pause in (*PAUSES, None):
            try:
                response = self._http.request(method, path, params=params, json=body, headers=headers)
            except httpx.HTTPError as error:
                if pause is None or not isinstance(error, httpx.TransportError):
                    raise self._unreachable(error) from error
                time.sleep(pause)
                continue
            return _result(response)
        raise AssertionError("unreachable")

    def download(self, path: str) -> Iterator[bytes]:
        """GET bytes as they come. Raises :class:`Unavailable` when the connection breaks before their end."""
        try:
            with self._http.stream("GET", path, headers={"Accept": "application/octet-stream, application/problem+json"}, timeout=httpx.Timeout(60, connect=10)) as response:
                if response.status_code != 200:
                    response.read()
                    _result(response)
                    raise _foreign(response)
                yield from response.iter_bytes(_PIECE)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def upload(self, path: str, query: dict[str, Any], chunks: Iterable[bytes], size: int) -> Any:
        """POST bytes as they come. Not tried again: they can be read once."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        try:
            return _result(self._http.post(path, params=query, content=chunks, headers=headers, timeout=httpx.Timeout(300, connect=10)))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def stream(self, path: str, query: dict[str, Any] | None = None) -> Iterator[ServerSentEvent]:
        """Server-sent events until the panel ends the stream. A ``problem`` event is raised.

        Raises :class:`Unavailable` when the connection breaks: ask again, or ask otherwise.
        """
        timeout = httpx.Timeout(STREAM_SILENCE, connect=10)
        params = {key: value for key, value in (query or {}).items() if value is not None}
        try:
            with self._http.stream("GET", path, params=params, headers={"Accept": "text/event-stream"}, timeout=timeout) as response:
                if response.status_code != 200:
                    response.read()
                    _result(response)
                for event in parse_events(response.iter_lines()):
                    if event.name == "problem":
                        raise Problem.model_validate_json(event.data).report().raised()
                    yield event
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _unreachable(self, error: httpx.HTTPError) -> HostlerError:
        if isinstance(error, (httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout)):
            return Timeout(f"the panel at {self.url} did not answer in time", hint="what it was asked may have been done: look before you ask again", code="panel_silent")
        return Unavailable(f"the panel at {self.url} cannot be reached: {error}", hint="check the address (hostler login) and that the panel runs", code="panel_unreachable")


def parse_events(lines: Iterable[str]) -> Iterator[ServerSentEvent]:
    """Events out of a stream's lines; comments and unknown fields are passed over, as its standard says (WHATWG HTML, 9.2.6)."""
    name, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield ServerSentEvent(name, "\n".join(data))
            name, data = "message", []
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)


def _result(response: httpx.Response) -> Any:
    if response.is_success:
        return response.json() if response.content else None
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        try:
            raise Problem.model_validate_json(response.content).report().raised()
        except ValidationError as error:
            raise _foreign(response) from error
    raise _foreign(response)


def _foreign(response: httpx.Response) -> Unavailable:
    """An answer that no panel of ours gives: another server, or a proxy before it."""
    return Unavailable(
        f"the address answers with status {response.status_code}, but not as a Hostler panel does", hint="check the address: hostler login URL", code="not_a_panel"
    )
