"""The door to nftables: ``libnftables.so.1`` in this process, nothing forked. See ``libnftables(3)``.

A context's netlink socket belongs to the network namespace that the calling thread was in when the context was made. Calls
are one at a time: the library's parser keeps global state.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import re
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import structlog

from hostler.core.errors import HostFailure

log = structlog.get_logger()

_OUTPUT_JSON = 1 << 4  # nftables/libnftables.h: NFT_CTX_OUTPUT_JSON
_lock = threading.RLock()  # a finalizer may run in the midst of a call of the same thread


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise HostFailure(
            f"libnftables cannot be loaded: {error}", hint="install Debian's package libnftables1", code="program_missing"
        ) from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    return library


class Nftables:
    """A context, for the network namespace that the calling thread is in now. Any thread may use it.

    Worth keeping: when a context is closed soon after something was deleted, the kernel first waits for the deletion to
    be over everywhere (an RCU grace period, 10 ms). It keeps its namespace alive until it is closed or forgotten.
    """

    def __init__(self) -> None:
        library = _library()
        with _lock:
            context = library.nft_ctx_new(0)
        if not context:
            raise HostFailure("libnftables gave no context", hint="the host may be out of memory or descriptors")
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        self._library, self._context = library, context
        self._closed = weakref.finalize(self, _free, library, context)

    def close(self) -> None:
        """Idempotent. Nothing else may be asked of it afterwards."""
        self._closed()

    def run(self, commands: str) -> None:
        """Run commands in nft's own language as one transaction: all of them or none.

        Raises :class:`HostFailure` with the library's words.
        """
        self._run(commands, 0)

    def listing(self, command: str) -> list[dict[str, Any]]:
        """What a ``list …`` command tells, as the objects of ``libnftables-json(5)``. Empty when the table or set is not there."""
        try:
            text = self._run(command, _OUTPUT_JSON)
        except HostFailure as error:
            if absent(error):
                return []
            raise
        found: list[dict[str, Any]] = json.loads(text)["nftables"] if text else []
        return found

    def _run(self, commands: str, flags: int) -> str:
        if not self._closed.alive:
            raise HostFailure("this nftables context is closed", hint="open another")
        with _lock:
            self._library.nft_ctx_output_set_flags(self._context, flags)
            status = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
            output = (self._library.nft_ctx_get_output_buffer(self._context) or b"").decode()
            said = (self._library.nft_ctx_get_error_buffer(self._context) or b"").decode()
        if status != 0:
            log.debug("nft failed", commands=commands[:2000], error=said[:2000])
            raise HostFailure(f"nftables refused: {_first(said)}", hint=f"the commands began: {' '.join(commands.split())[:300]}")
        return output


def _free(library: ctypes.CDLL, context: int) -> None:
    with _lock:
        library.nft_ctx_free(context)


@contextlib.contextmanager
def opened() -> Iterator[Nftables]:
    """A context for the block."""
    context = Nftables()
    try:
        yield context
    finally:
        context.close()


def absent(error: HostFailure) -> bool:
    """Whether a failure means that the table, set, chain or element is not there."""
    return "No such file or directory" in error.message


def _first(said: str) -> str:
    """The first complaint on one line. After it, libnftables draws the command with a marker beneath."""
    line = next((line for line in said.splitlines() if re.search(r"error", line, re.IGNORECASE)), said)
    return " ".join(line.split()) or "no message"
