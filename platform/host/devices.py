"""Which device nodes the processes of a cgroup of version 2 may use.

Version 2 has no list that is written to a file: a program that the kernel runs at each open and mknod says yes or no
(``BPF_PROG_TYPE_CGROUP_DEVICE``, https://docs.kernel.org/admin-guide/cgroup-v2.html#device-controller). Ours is made of a list of
character devices, by hand, and handed to bpf(2). Of several programs at one cgroup all must say yes, and a cgroup obeys those of its
ancestors too: ours narrows what a runtime has set and never widens it. It ends with its cgroup.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hostler.core.errors import HostFailure, Unsupported

#: Character devices as (major, minor); None is every minor.
Devices = Sequence[tuple[int, int | None]]

_libc = ctypes.CDLL(None, use_errno=True)
_SYSCALL = {"x86_64": 321, "aarch64": 280}
#: Commands, types and flags of ``include/uapi/linux/bpf.h``.
_LOAD, _ATTACH, _DETACH, _FD_OF_ID, _INFO, _QUERY = 5, 8, 9, 13, 15, 16
_CGROUP_DEVICE_PROGRAM, _AT_DEVICE, _WITH_OTHERS = 15, 6, 2
#: ``struct bpf_cgroup_dev_ctx``: access in the upper and kind in the lower half of a word, then major and minor.
_ACCESS, _MAJOR, _MINOR = 0, 4, 8
_CHARACTER, _READ_WRITE = 2, 2 | 4
_MOST_PROGRAMS = 64
_NAME, _LICENSE = b"hostler_devices", b"GPL"
_TAG = slice(8, 16)

# Operations of ``include/uapi/linux/bpf_common.h``, as sums of class, size or operation, and source.
_LOAD_WORD, _COPY, _SET, _KEEP_BITS, _SHIFT_RIGHT, _IF_EQUAL, _IF_NOT, _END = 0x61, 0xBF, 0xB7, 0x54, 0x74, 0x15, 0x55, 0x95
_ANSWER, _CONTEXT, _KIND, _WANTED, _OF, _NUMBER = range(6)


def program(allowed: Devices) -> bytes:
    """The instructions: reading and writing of the ``allowed`` character devices is, all else (making nodes too) is not. Pure."""
    words = [
        _instruction(_LOAD_WORD, _KIND, _CONTEXT, offset=_ACCESS),
        _instruction(_COPY, _WANTED, _KIND),
        _instruction(_KEEP_BITS, _KIND, value=0xFFFF),
        _instruction(_SHIFT_RIGHT, _WANTED, value=16),
        _instruction(_LOAD_WORD, _OF, _CONTEXT, offset=_MAJOR),
        _instruction(_LOAD_WORD, _NUMBER, _CONTEXT, offset=_MINOR),
        _instruction(_IF_EQUAL, _KIND, offset=2, value=_CHARACTER),
        *_answer(0),
        _instruction(_KEEP_BITS, _WANTED, value=~_READ_WRITE),
        _instruction(_IF_EQUAL, _WANTED, offset=2),
        *_answer(0),
    ]
    for major, minor in allowed:
        further = [] if minor is None else [_instruction(_IF_NOT, _NUMBER, offset=2, value=minor)]
        words += [_instruction(_IF_NOT, _OF, offset=2 + len(further), value=major), *further, *_answer(1)]
    return b"".join([*words, *_answer(0)])


def _instruction(operation: int, into: int, source: int = 0, *, offset: int = 0, value: int = 0) -> bytes:
    """``struct bpf_insn``; a jump's ``offset`` counts instructions after it."""
    return struct.pack("=BBhi", operation, source << 4 | into, offset, value)


def _answer(yes: int) -> list[bytes]:
    return [_instruction(_SET, _ANSWER, value=yes), _instruction(_END, 0)]


def hold(folder: Path, allowed: Devices) -> None:
    """Hold a cgroup of version 2 and all below it to reading and writing of ``allowed``. Held to just these already is a success.

    Raises :class:`FileNotFoundError` without the cgroup, :class:`Unsupported` where the kernel has no such programs,
    :class:`HostFailure` when it refuses this one.
    """
    with _opened(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as cgroup, _opened(_loaded(program(allowed))) as ours:
        tag, (there, shared) = _tag(ours), _attached(cgroup)
        if any(_tag_of(one) == tag for one in there):
            return
        if not shared:  # whoever attached it wanted no other beside it: ours takes its place
            for one in there:
                _detach(cgroup, one)
        try:
            _bpf(_ATTACH, struct.pack("=IIII", cgroup, ours, _AT_DEVICE, _WITH_OTHERS))
        except OSError as error:
            raise HostFailure(
                f"the kernel does not hold cgroup {folder.name} to its devices: {error.strerror}", code="devices_refused",
                hint="a cgroup above it may have a device program that allows no others: see bpftool cgroup tree",
            ) from error


def programs(folder: Path) -> list[str]:
    """The tags (digests of the instructions, in hex) of the device programs attached to just this cgroup."""
    with _opened(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as cgroup:
        return [_tag_of(one).hex() for one in _attached(cgroup)[0]]


def _loaded(instructions: bytes) -> int:
    """A descriptor of the program. The kernel checks it instruction by instruction."""
    code, license_ = ctypes.create_string_buffer(instructions, len(instructions)), ctypes.create_string_buffer(_LICENSE)
    count = len(instructions) // 8
    words = struct.pack("=IIQQIIQII16s", _CGROUP_DEVICE_PROGRAM, count, ctypes.addressof(code), ctypes.addressof(license_), 0, 0, 0, 0, 0, _NAME)
    try:
        return _bpf(_LOAD, words)[0]
    except OSError as error:
        raise Unsupported(f"this kernel takes no device programs for cgroups: {error.strerror}", hint="use one with CONFIG_CGROUP_BPF") from error


def _attached(cgroup: int) -> tuple[list[int], bool]:
    """Ids of the programs at a cgroup, and whether they suffer others beside them."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    _, words = _bpf(_QUERY, struct.pack("=IIIIQI4x", cgroup, _AT_DEVICE, 0, 0, ctypes.addressof(ids), _MOST_PROGRAMS))
    flags, count = struct.unpack_from("=I", words, 12)[0], struct.unpack_from("=I", words, 24)[0]
    return list(ids[:count]), not count or bool(flags & _WITH_OTHERS)


def _detach(cgroup: int, program_id: int) -> None:
    with _opened(_by_id(program_id)) as theirs:
        _bpf(_DETACH, struct.pack("=IIII", cgroup, theirs, _AT_DEVICE, 0))


def _by_id(program_id: int) -> int:
    return _bpf(_FD_OF_ID, struct.pack("=III", program_id, 0, 0))[0]


def _tag_of(program_id: int) -> bytes:
    """The tag of an attached program; empty of one that has just gone."""
    try:
        handle = _by_id(program_id)
    except FileNotFoundError:
        return b""
    with _opened(handle):
        return _tag(handle)


def _tag(handle: int) -> bytes:
    info = ctypes.create_string_buffer(80)
    _bpf(_INFO, struct.pack("=IIQ", handle, len(info), ctypes.addressof(info)))
    return info.raw[_TAG]


def _bpf(command: int, words: bytes) -> tuple[int, bytes]:
    """bpf(2): its result, and the words as the kernel left them. Raises :class:`OSError`."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    attributes = ctypes.create_string_buffer(words, len(words))
    result = _libc.syscall(number, command, attributes, len(words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result, attributes.raw


@contextmanager
def _opened(handle: int) -> Iterator[int]:
    try:
        yield handle
    finally:
        os.close(handle)
