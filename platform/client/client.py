"""The API as Python calls, with typed answers. Every call raises :class:`hostler.core.errors.HostlerError` with the panel's code and hint."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from hostler.client.http import Http
from hostler.core import api
from hostler.core.errors import HostlerError, NotFound, Timeout, Unavailable

T = TypeVar("T")

#: Seconds between two looks at an operation whose stream cannot be had.
POLL = 0.5
_PIECE = 1 << 18


class Client:
    """Calls one panel with one token. Close it, or use it in a ``with`` block."""

    def __init__(self, url: str, token: str = "", timeout: float = 30.0) -> None:
        self._http = Http(url, token, timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- the panel and who asks ---

    def health(self) -> api.Health:
        """Whether the panel works. Raises :class:`Unavailable` when its store is gone."""
        return api.Health.model_validate(self._http.request("GET", "/v1/health"))

    def own_account(self) -> api.AccountOut:
        """The account of this token."""
        return api.AccountOut.model_validate(self._http.request("GET", "/v1/account"))

    def accounts(self) -> Iterator[api.AccountOut]:
        """All accounts."""
        return self._all("/v1/accounts", api.AccountPage)

    def create_account(self, name: str, *, provider: bool = False) -> api.AccountOut:
        """Make an account."""
        return api.AccountOut.model_validate(self._http.request("POST", "/v1/accounts", body={"name": name, "provider": provider}))

    def share_account(self, name: str, *, cpu_weight: int) -> api.AccountOut:
        """Set an account's share of processors."""
        return api.AccountOut.model_validate(self._http.request("POST", f"/v1/accounts/{quote(name, safe='')}/share", body={"cpu_weight": cpu_weight}))

    def tokens(self, account: str | None = None) -> Iterator[api.TokenOut]:
        """Tokens, without secrets."""
        return self._all("/v1/tokens", api.TokenPage, account=account)

    def create_token(self, name: str, *, lifetime: int | None = None, account: str | None = None) -> api.TokenMade:
        """Make a token; ``lifetime`` in seconds. Its secret is told in this answer only."""
        return api.TokenMade.model_validate(self._http.request("POST", "/v1/tokens", body={"name": name, "lifetime": lifetime, "account": account}))

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token."""
        self._http.request("DELETE", f"/v1/tokens/{_part(token_id)}")

    # --- plans, images, servers ---

    def plans(self) -> Iterator[api.PlanOut]:
        """All plans."""
        return self._all("/v1/plans", api.PlanPage)

    def create_plan(self, name: str, limits: dict[str, Any], *, description: str = "", drivers: dict[str, str] | None = None) -> api.PlanOut:
        """Make a plan. Sizes in ``limits`` may be text such as 512M."""
        body = {"name": name, "description": description, "limits": limits, "drivers": drivers or {}}
        return api.PlanOut.model_validate(self._http.request("POST", "/v1/plans", body=body))

    def delete_plan(self, name: str) -> None:
        """Delete a plan that nothing uses."""
        self._http.request("DELETE", f"/v1/plans/{_part(name)}")

    def images(self) -> Iterator[api.ImageOut]:
        """The account's images and the provider's."""
        return self._all("/v1/images", api.ImagePage)

    def image(self, name: str) -> api.ImageOut:
        """One image."""
        return api.ImageOut.model_validate(self._http.request("GET", f"/v1/images/{_part(name)}"))

    def import_image(self, name: str, chunks: Iterable[bytes], size: int) -> api.OperationOut:
        """Upload an archive of ``size`` bytes."""
        return api.OperationOut.model_validate(self._http.upload("/v1/images", {"name": name}, chunks, size))

    def build_image(self, name: str, recipe: str) -> api.OperationOut:
        """Ask for an image made from a recipe."""
        return self._change("POST", "/v1/images/build", {"name": name, "recipe": recipe})

    def delete_image(self, name: str) -> api.OperationOut:
        """Ask for an image's end."""
        return self._change("DELETE", f"/v1/images/{_part(name)}")

    def nodes(self) -> Iterator[api.NodeOut]:
        """All servers."""
        return self._all("/v1/nodes", api.NodePage)

    def node(self, name: str) -> api.NodeOut:
        """One server."""
        return api.NodeOut.model_validate(self._http.request("GET", f"/v1/nodes/{_part(name)}"))

    # --- containers ---

    def containers(self, *, state: str | None = None, node: str | None = None, name: str | None = None, account: str | None = None) -> Iterator[api.ContainerOut]:
        """Containers; ``name`` is the beginning of names."""
        return self._all("/v1/containers", api.ContainerPage, state=state, node=node, name=name, account=account)

    def container(self, name: str) -> api.ContainerOut:
        """One container."""
        return api.ContainerOut.model_validate(self._http.request("GET", _container(name)))

    def create(self, body: dict[str, Any]) -> api.OperationOut:
        """Ask for a container; ``body`` as :class:`hostler.core.api.ContainerIn` has it."""
        return self._change("POST", "/v1/containers", body)

    def resize(self, name: str, limits: dict[str, Any]) -> api.OperationOut:
        """Ask for other limits; only what is in ``limits`` changes, None lifts one."""
        return self._change("POST", f"{_container(name)}/resize", limits)

    def start(self, name: str) -> api.OperationOut:
        """Ask for a start."""
        return self._change("POST", f"{_container(name)}/start")

    def stop(self, name: str, grace: float = 10.0, *, discard_memory: bool = False) -> api.OperationOut:
        """Ask for a stop; ``grace`` seconds before it is killed. ``discard_memory``: of a suspended container, whose memory is given up."""
        return self._change("POST", f"{_container(name)}/stop", {"grace": grace, "discard_memory": discard_memory})

    def restart(self, name: str, grace: float = 10.0) -> api.OperationOut:
        """Ask for a restart."""
        return self._change("POST", f"{_container(name)}/restart", {"grace": grace})

    def delete(self, name: str) -> api.OperationOut:
        """Ask for a container's end."""
        return self._change("DELETE", _container(name))

    def exec(self, name: str, body: dict[str, Any]) -> api.OperationOut:
        """Ask for a command inside; ``body`` as :class:`hostler.core.api.ExecIn` has it."""
        return self._change("POST", f"{_container(name)}/exec", body)

    def logs(self, name: str, *, tail: int | None = None, cursor: str | None = None) -> api.LogPage:
        """What a container wrote."""
        return api.LogPage.model_validate(self._http.request("GET", f"{_container(name)}/logs", query={"tail": tail, "cursor": cursor}))

    def follow_logs(self, name: str, *, tail: int | None = None) -> Iterator[api.LogPage]:
        """What a container wrote and writes, without end. A broken connection is made anew where it broke."""
        cursor: str | None = None
        failed = 0
        while True:
            try:
                for event in self._http.stream(f"{_container(name)}/logs", {"follow": 1, "tail": tail if cursor is None else None, "cursor": cursor}):
                    page = api.LogPage.model_validate_json(event.data)
                    cursor, failed = page.cursor, 0
                    yield page
            except (Unavailable, Timeout):
                failed += 1
                if failed > 3:
                    raise
            time.sleep(POLL)

    def usage(self, name: str) -> api.UsageOut:
        """What a container uses."""
        return api.UsageOut.model_validate(self._http.request("GET", f"{_container(name)}/usage"))

    # --- memory: checkpoints, moves ---

    def suspend(self, name: str) -> api.OperationOut:
        """Ask for a container's memory to go to disk."""
        return self._change("POST", f"{_container(name)}/suspend")

    def check_suspend(self, name: str) -> api.SuspendCheck:
        """What a suspend would meet."""
        return api.SuspendCheck.model_validate(self._http.request("GET", f"{_container(name)}/suspend"))

    def resume(self, name: str, *, on: str | None = None, drop_checkpoints: bool = False) -> api.OperationOut:
        """Ask for a suspended container to come back, on its own server or on another."""
        return self._change("POST", f"{_container(name)}/resume", {"on": on, "drop_checkpoints": drop_checkpoints})

    def migrate(
        self, name: str, *, to: str | None = None, methods: Iterable[str] = (), allow_restart: bool = False, drop_checkpoints: bool = False
    ) -> api.OperationOut:
        """Ask for a container to move; its result is the report."""
        body = {"to": to, "methods": list(methods), "allow_restart": allow_restart, "drop_checkpoints": drop_checkpoints}
        return self._change("POST", f"{_container(name)}/migrate", body)

    def check_migrate(self, name: str, *, to: str | None = None, methods: Iterable[str] = (), allow_restart: bool = False) -> api.MigrateCheck:
        """What a move would meet, and which it would be."""
        query = {"to": to, "methods": ",".join(methods) or None, "allow_restart": int(allow_restart)}
        return api.MigrateCheck.model_validate(self._http.request("GET", f"{_container(name)}/migrate", query=query))

    def checkpoint(self, name: str, *, label: str | None = None) -> api.OperationOut:
        """Ask for a checkpoint; its id is in the operation's request."""
        return self._change("POST", f"{_container(name)}/checkpoints", {"name": label})

    def checkpoints(self, *, container: str | None = None, account: str | None = None) -> Iterator[api.CheckpointOut]:
        """Checkpoints, the oldest first."""
        return self._all("/v1/checkpoints", api.CheckpointPage, container=container, account=account)

    def show_checkpoint(self, checkpoint: str) -> api.CheckpointOut:
        """One checkpoint."""
        return api.CheckpointOut.model_validate(self._http.request("GET", f"/v1/checkpoints/{_part(checkpoint)}"))

    def inspect_checkpoint(self, checkpoint: str) -> api.CheckpointInspection:
        """What its file says of itself."""
        return api.CheckpointInspection.model_validate(self._http.request("GET", f"/v1/checkpoints/{_part(checkpoint)}/manifest"))

    def verify_checkpoint(self, checkpoint: str) -> api.CheckpointVerification:
        """Have all of its file read. Raises what is wrong with it."""
        return api.CheckpointVerification.model_validate(self._http.request("GET", f"/v1/checkpoints/{_part(checkpoint)}/verify"))

    def delete_checkpoint(self, checkpoint: str) -> api.OperationOut:
        """Ask for a checkpoint's end."""
        return self._change("DELETE", f"/v1/checkpoints/{_part(checkpoint)}")

    def export_checkpoint(self, checkpoint: str) -> api.OperationOut:
        """Ask for a checkpoint as one file; once that is done, :meth:`download_checkpoint`."""
        return self._change("POST", f"/v1/checkpoints/{_part(checkpoint)}/export")

    def download_checkpoint(self, export: api.OperationOut, file: Path, advance: Callable[[int], None] = lambda count: None) -> None:
        """Write what an export that is done has made to a new file, and have the panel's copy removed. See :func:`hostler.client.downloads.download`."""
        from hostler.client.downloads import download

        path = f"{_operation(export.id)}/file"
        download(self._http.download(path), file, str(export.result["digest"]), advance)
        with suppress(Unavailable, Timeout, NotFound):  # the file is here, and the panel removes its own by itself within the hour
            self._http.request("DELETE", path)

    def import_checkpoint(
        self, file: Path, *, name: str | None = None, plan: str | None = None, on: str | None = None, advance: Callable[[int], None] = lambda count: None
    ) -> api.OperationOut:
        """Upload an exported checkpoint and ask for a container of it. Raises OSError for a file that cannot be read."""
        query = {key: value for key, value in {"name": name, "plan": plan, "on": on}.items() if value is not None}
        with file.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            return api.OperationOut.model_validate(self._http.upload("/v1/checkpoints/import", query, _pieces(source, advance), size))

    def restore(self, name: str, checkpoint: str) -> api.OperationOut:
        """Ask for a container to go back in time."""
        return self._change("POST", f"{_container(name)}/restore", {"checkpoint": checkpoint})

    def clone(self, name: str, checkpoint: str, new: str) -> api.OperationOut:
        """Ask for a new container from a checkpoint of ``name``."""
        return self._change("POST", f"{_container(name)}/clone", {"checkpoint": checkpoint, "name": new})

    # --- operations, events ---

    def operations(self, *, container: str | None = None, state: str | None = None, account: str | None = None, limit: int = 50) -> list[api.OperationOut]:
        """The newest operations."""
        query = {"container": container, "state": state, "account": account, "limit": limit}
        return api.OperationPage.model_validate(self._http.request("GET", "/v1/operations", query=query)).items

    def operation(self, operation_id: str) -> api.OperationOut:
        """One operation."""
        return api.OperationOut.model_validate(self._http.request("GET", _operation(operation_id)))

    def cancel(self, operation_id: str) -> api.OperationOut:
        """Ask an operation to stop and undo."""
        return self._change("POST", f"{_operation(operation_id)}/cancel")

    def follow(self, operation_id: str) -> Iterator[api.OperationOut]:
        """The operation now and at each change, until it has ended. Where no stream can be had, it is looked at every half second."""
        last: api.OperationOut | None = None
        while last is None or not last.ended:
            try:
                for event in self._http.stream(f"{_operation(operation_id)}/events"):
                    last = api.OperationOut.model_validate_json(event.data)
                    yield last
                    if last.ended:
                        return
            except (Unavailable, Timeout):
                time.sleep(POLL)
            seen = self.operation(operation_id)
            if seen != last:
                last = seen
                yield last

    def wait(self, operation_id: str) -> api.OperationOut:
        """The operation once it has ended."""
        for last in self.follow(operation_id):
            if last.ended:
                return last
        raise AssertionError("unreachable")

    def events(self, *, container: str | None = None, account: str | None = None, limit: int = 50) -> list[api.EventOut]:
        """The newest events, the newest first."""
        query = {"container": container, "account": account, "limit": limit}
        return api.EventPage.model_validate(self._http.request("GET", "/v1/events", query=query)).items

    def events_since(self, since: int, *, container: str | None = None, account: str | None = None) -> list[api.EventOut]:
        """Events after an id, in their order."""
        query = {"container": container, "account": account, "since": since, "limit": api.PAGE_LIMIT}
        return api.EventPage.model_validate(self._http.request("GET", "/v1/events", query=query)).items

    # --- shared ---

    def _change(self, method: str, path: str, body: Any = None) -> api.OperationOut:
        return api.OperationOut.model_validate(self._http.request(method, path, body=body))

    def _all(self, path: str, page_model: type[api.Page[T]], **query: Any) -> Iterator[T]:
        after: str | None = None
        while True:
            page = page_model.model_validate(self._http.request("GET", path, query=query | {"after": after, "limit": api.PAGE_LIMIT}))
            yield from page.items
            after = page.next
            if after is None:
                return


def failure(operation: api.OperationOut) -> HostlerError | None:
    """Why an operation that has ended did not do what was asked."""
    if operation.state == "done":
        return None
    if operation.error is not None:
        return operation.error.raised()
    return HostlerError(f"operation {operation.id} is {operation.state.replace('_', ' ')}", hint=f"hostler op show {operation.id}", code=operation.state)


def _pieces(file: BinaryIO, advance: Callable[[int], None]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
        advance(len(piece))


def _part(text: str) -> str:
    return quote(text, safe="")


def _container(name: str) -> str:
    return f"/v1/containers/{_part(name)}"


def _operation(operation_id: str) -> str:
    return f"/v1/operations/{_part(operation_id)}"
