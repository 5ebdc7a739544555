"""The door to libseccomp: a profile of the OCI kind becomes the filter program that the kernel takes.

https://github.com/opencontainers/runtime-spec/blob/v1.0.2/config-linux.md#seccomp and ``seccomp_rule_add(3)``. The library is
what runc and crun are linked with, so it is there whenever one of them is.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostler.core.errors import HostFailure, Unsupported
from hostler.host.failures import explained

_LIBRARY = "libseccomp.so.2"
#: Counted up when the same profile is to give another program.
_FORM = 1
_ACTIONS = {
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_OPERATORS = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
_EPERM, _EEXIST, _ENOSYS = 1, 17, 38
_UNKNOWN = -1
# struct sock_filter: code, jump if true, jump if false, constant; struct seccomp_data: nr at 0, arch at 4
_LOAD, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
_X32 = 0x40000000
_lock = threading.Lock()


class _Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def available() -> bool:
    """Whether this host has the library."""
    try:
        _library()
    except Unsupported:
        return False
    return True


def filter_file(profile: dict[str, Any], folder: Path) -> Path:
    """The file in ``folder`` that holds ``profile`` as a program, compiled if it is not there yet; its name is a digest.

    It appears whole or not at all. Raises :class:`Unsupported` without the library, :class:`HostFailure` when it refuses, and
    :class:`~hostler.core.errors.NoRoom`.
    """
    said = json.dumps([_FORM, _version(), os.uname().machine, profile], sort_keys=True)
    file = folder / f"{hashlib.sha256(said.encode()).hexdigest()}.bpf"
    if file.exists():
        return file
    program = compiled(profile)
    draft = folder / f".{os.urandom(6).hex()}"
    with explained("keep a compiled seccomp filter"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            draft.write_bytes(program)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    return file


def compiled(profile: dict[str, Any]) -> bytes:
    """``profile`` as an array of ``struct sock_filter``.

    A system call that is newer than all that a profile of errors names is answered with ENOSYS, as runc does: C libraries then fall
    back on an older one, which they do not after EPERM. Raises as :func:`filter_file`.
    """
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    with _lock:
        library = _library()
        context = library.seccomp_init(default)
        if not context:
            raise HostFailure("libseccomp cannot begin a filter", code="seccomp_failed", hint="the server is out of memory")
        try:
            tokens = [_add_architecture(library, context, name) for name in profile.get("architectures", ())]
            for rule in profile["syscalls"]:
                _add_rule(library, context, rule, default)
            program = _exported(library, context)
            newest = {token: _newest(library, token, profile) for token in tokens or [library.seccomp_arch_native()]}
        finally:
            library.seccomp_release(context)
    return (b"".join(_too_new(token, number) for token, number in newest.items()) if default >> 16 == 5 else b"") + program


def _add_architecture(library: Any, context: int, name: str) -> int:
    token = int(library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode()))
    if token == 0:
        raise HostFailure(f"libseccomp does not know the architecture {name}", code="seccomp_failed", hint="bring libseccomp up to date")
    _check(library.seccomp_arch_add(context, token), f"add the architecture {name}", but=_EEXIST)
    return token


def _add_rule(library: Any, context: int, rule: dict[str, Any], default: int) -> None:
    action = _action(rule["action"], rule.get("errnoRet"))
    if action == default:
        return
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN:
            continue  # newer than the library: the default holds
        for group in _conditions(rule.get("args") or []):
            given = (_Comparison * len(group))(*group)
            _check(library.seccomp_rule_add_array(context, action, number, len(group), given), f"add a rule for {name}")


def _conditions(args: list[dict[str, Any]]) -> Iterator[list[_Comparison]]:
    """All of a rule's conditions must hold; but where two are about one argument, any of them (as in runc and crun)."""
    every = [_Comparison(one["index"], _OPERATORS[one["op"]], one["value"], one.get("valueTwo", 0)) for one in args]
    if any(count > 1 for count in Counter(one["index"] for one in args).values()):
        yield from ([one] for one in every)
    else:
        yield every


def _action(name: str, errno: int | None) -> int:
    if name not in _ACTIONS:
        raise Unsupported(f"seccomp action {name} is not supported", hint=f"use one of {', '.join(_ACTIONS)}")
    return _ACTIONS[name] | ((_EPERM if errno is None else errno) if name == "SCMP_ACT_ERRNO" else 0)


def _newest(library: Any, token: int, profile: dict[str, Any]) -> int:
    """The highest number among the calls that the profile names. Those that an architecture lacks have negative ones."""
    names = (name for rule in profile["syscalls"] for name in rule["names"])
    return max(int(library.seccomp_syscall_resolve_name_arch(token, name.encode())) for name in names)


def _too_new(token: int, newest: int) -> bytes:
    """On the architecture ``token``, ENOSYS for numbers above ``newest`` and below those of x32; all else goes on behind."""
    code = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, 4, token),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, 2, 0, _X32),
        (_GREATER, 0, 1, newest),
        (_RETURN, 0, 0, _ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in code)


def _exported(library: Any, context: int) -> bytes:
    handle = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(library.seccomp_export_bpf(context, handle), "write the filter")
        return os.pread(handle, os.fstat(handle).st_size, 0)
    finally:
        os.close(handle)


def _check(result: int, what: str, but: int = 0) -> None:
    if result < 0 and -result != but:
        raise HostFailure(f"libseccomp cannot {what}: {os.strerror(-result)}", code="seccomp_failed", hint="the profile may be wrong")


class _Version(ctypes.Structure):
    """``struct scmp_version``."""

    _fields_ = [("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint)]


@functools.cache
def _version() -> list[int]:
    found = _library().seccomp_version().contents
    return [found.major, found.minor, found.micro]


@functools.cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise Unsupported(f"this server has no {_LIBRARY}", hint="apt-get install libseccomp2") from error
    library.seccomp_version.restype = ctypes.POINTER(_Version)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_release.restype = None
    library.seccomp_arch_native.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library
