"""The ``busybox`` image: this machine's static busybox, a link for each of its applets, and the few files a system needs."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Final

from hostler.core.errors import Unsupported

#: Every time in the archive, so that the same busybox gives the same image: 2024-01-01.
_TIME: Final = 1_704_067_200
_PT_INTERP: Final = 3

_FOLDERS: Final = {
    **dict.fromkeys(("bin", "dev", "etc", "home", "lib", "mnt", "proc", "run", "sbin", "srv", "sys", "usr"), 0o755),
    **dict.fromkeys(("usr/bin", "usr/sbin", "var", "var/log", "var/www"), 0o755),
    **dict.fromkeys(("tmp", "var/tmp"), 0o1777),
    "root": 0o700,
}
_FILES: Final = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "daemon:x:1:1:daemon:/:/bin/false\n"
        "www-data:x:33:33:www-data:/var/www:/bin/false\n"
        "nobody:x:65534:65534:nobody:/:/bin/false\n"
    ),
    "etc/group": "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/hostname": "",
    "etc/resolv.conf": "",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/profile": "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
    "var/www/index.html": "<!doctype html><title>busybox</title><p>It works: busybox, in a container of its own.\n",
}


def write_busybox(out: IO[bytes], program: Path, applets: Iterable[str]) -> None:
    """Write the root file system as a tar.

    ``applets`` are paths such as ``usr/sbin/httpd``, as ``busybox --list-full`` prints them. Raises
    :class:`Unsupported` when ``program`` needs shared libraries.
    """
    content = program.read_bytes()
    check_static(content, program)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, mode in sorted(_FOLDERS.items()):
            _add(tar, name, mode, tarfile.DIRTYPE)
        _add(tar, "bin/busybox", 0o755, tarfile.REGTYPE, content)
        for applet in sorted(set(applets) - {"bin/busybox"}):
            _add(tar, applet, 0o777, tarfile.SYMTYPE, link="/bin/busybox")
        _add(tar, "var/run", 0o777, tarfile.SYMTYPE, link="/run")
        for name, text in sorted(_FILES.items()):
            _add(tar, name, 0o644, tarfile.REGTYPE, text.encode())


def _add(tar: tarfile.TarFile, name: str, mode: int, kind: bytes, content: bytes = b"", link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime, entry.size, entry.linkname = kind, mode, _TIME, len(content), link
    tar.addfile(entry, io.BytesIO(content))


def check_static(program: bytes, path: Path) -> None:
    """Raise :class:`Unsupported` for an ELF program that names an interpreter (elf(5), PT_INTERP), or is no ELF program."""
    if program[:4] != b"\x7fELF":
        raise Unsupported(f"{path} is no ELF program", hint="install Debian's package busybox-static")
    wide, order = program[4] == 2, "<" if program[5] == 1 else ">"
    (table,) = struct.unpack_from(order + ("Q" if wide else "I"), program, 32 if wide else 28)
    size, count = struct.unpack_from(order + "HH", program, 54 if wide else 42)
    for number in range(count):
        (kind,) = struct.unpack_from(order + "I", program, table + number * size)
        if kind == _PT_INTERP:
            raise Unsupported(
                f"{path} needs shared libraries, which the image would lack",
                hint="install Debian's package busybox-static",
            )
