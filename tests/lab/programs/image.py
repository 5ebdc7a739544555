"""The image that these tests' containers are made from: this machine's own programs, with the libraries they need, on top of busybox.

No package is fetched for Redis, PostgreSQL and Python, which the tests need on the machine anyway; nginx comes as a package file that is unpacked
and not installed.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hostler.node.busybox import write_busybox

#: Uid of the image's "daemon", under which PostgreSQL runs: it refuses to be root.
POSTGRES = 1
#: What a container's processes are started from.
PYTHON = "/opt/python/bin/python3"
#: Pages that nginx serves.
PAGES = 16
_INSIDE = Path(__file__).parent / "inside"
#: Parts of Python's library that no program here needs.
_LEFT_OUT = ("test", "site-packages", "dist-packages", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo", "__pycache__", "pydoc_data")
_ZONES = ("UTC", "GMT", "Etc/UTC")
_LIBRARY = re.compile(r"^\s*(?P<name>\S+) (?:=> (?P<path>/\S+) )?\(0x", re.MULTILINE)


def page(number: int) -> bytes:
    """Content of page ``number``: 1 KiB to 1 MiB, the same every time."""
    return random.Random(number).randbytes((1 << 10) << (number % 11))


def page_digest(number: int) -> str:
    """Its SHA-256."""
    return hashlib.sha256(page(number)).hexdigest()


def build(archive: Path, *parts: Callable[[Root], None]) -> None:
    """Write an image of busybox and these parts."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox-static is not installed: run ops/test"
    applets = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, check=True).stdout.split()
    with archive.open("wb") as out:
        write_busybox(out, Path(busybox), applets)
    with tarfile.open(archive, "a", format=tarfile.PAX_FORMAT) as tar:
        root = Root(tar)
        for part in parts:
            part(root)
        root.close()


def fetch_nginx(folder: Path) -> Path:
    """The package ``nginx`` of this machine's own sources, unpacked into ``folder``. Raises :class:`subprocess.CalledProcessError` without a mirror."""
    folder.mkdir()
    folder.chmod(0o777)  # apt fetches as a user of its own
    subprocess.run(["apt-get", "download", "nginx"], cwd=folder, check=True, capture_output=True, timeout=120)
    (package,) = folder.glob("nginx_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, folder / "root"], check=True, timeout=60)
    return folder / "root"


class Root:
    """A root file system that is being written. Libraries of programs come with them."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._there = {"/" + name for name in tar.getnames()}
        self._programs: list[Path] = []

    def folder(self, path: str, mode: int = 0o755, owner: int = 0) -> None:
        """A folder, and those above it."""
        if path in self._there or path == "/":
            return
        self.folder(os.path.dirname(path))
        self._add(path, mode, tarfile.DIRTYPE, owner=owner)

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A file; the first of a path counts."""
        if path not in self._there:
            self.folder(os.path.dirname(path))
            self._add(path, mode, tarfile.REGTYPE, content)

    def copy(self, source: Path, path: str) -> None:
        """A file of the machine; a program's libraries follow at the end."""
        content = source.read_bytes()
        if content[:4] == b"\x7fELF":
            self._programs.append(source)
        self.write(path, content, 0o755 if os.access(source, os.X_OK) else 0o644)

    def tree(self, source: Path, path: str, left_out: Iterable[str] = ()) -> None:
        """A folder of the machine, symbolic links followed."""
        skip = set(left_out)
        for folder, names, files in os.walk(source, followlinks=True):
            names[:] = sorted(set(names) - skip)
            for name in sorted(set(files) - skip):
                if (file := Path(folder, name)).is_file():
                    self.copy(file, f"{path}/{file.relative_to(source)}")

    def close(self) -> None:
        """Add what the programs are linked with: the loader where they look for it, all else where it looks."""
        for name, library in _libraries(self._programs):
            self.write(name if name.startswith("/") else f"/usr/lib/{Path(name).name}", library.read_bytes(), 0o755)

    def _add(self, path: str, mode: int, kind: bytes, content: bytes = b"", owner: int = 0) -> None:
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.type, entry.mode, entry.size, entry.uid, entry.gid = kind, mode, len(content), owner, owner
        self._tar.addfile(entry, io.BytesIO(content))
        self._there.add(path)


def _libraries(programs: list[Path]) -> Iterator[tuple[str, Path]]:
    """What the dynamic loader would load for these programs: name, or absolute path of the loader itself, and file."""
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True, timeout=60).stdout  # its status tells of static ones
    for found in _LIBRARY.finditer(told):
        name, path = found["name"], found["path"]
        if path or name.startswith("/"):
            yield name, Path(path or name)


def python(root: Root) -> None:
    """The Python that runs this, and the programs of ``inside/``."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program = Path(sys.base_prefix, "bin", version)
    root.copy(program, PYTHON)
    root.tree(Path(sysconfig.get_path("stdlib")), f"/opt/python/lib/{version}", (*_LEFT_OUT, *_configs(version)))
    for source in sorted(_INSIDE.glob("*.py")):
        root.copy(source, f"/srv/{source.name}")


def _configs(version: str) -> list[str]:
    return [entry.name for entry in Path(sysconfig.get_path("stdlib")).glob(f"config-{version.removeprefix('python')}*")]


def bash(root: Root) -> None:
    """The shell. Those of busybox and of Debian's dash keep /dev/tty open, which CRIU does not take along where another has the terminal's master."""
    root.copy(Path("/bin/bash"), "/bin/bash")


def redis(root: Root) -> None:
    """The server."""
    program = shutil.which("redis-server")
    assert program is not None, "redis-server is not installed: run ops/test"
    root.copy(Path(program), "/usr/bin/redis-server")


def postgres(root: Root) -> None:
    """The server, and what makes its data; a folder for it."""
    (programs,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))[-1:]
    for name in ("initdb", "postgres"):
        root.copy(programs / name, f"{programs}/{name}")
        root.write(f"/usr/bin/{name}", f'#!/bin/sh\nexec {programs}/{name} "$@"\n'.encode(), 0o755)
    for name in ("dict_snowball.so", "plpgsql.so"):
        root.copy(programs.parent / "lib" / name, f"{programs.parent}/lib/{name}")
    version = programs.parent.name
    root.tree(Path("/usr/share/postgresql") / version, f"/usr/share/postgresql/{version}", ("man", "extension"))
    root.tree(Path("/usr/share/postgresql") / version / "extension", f"/usr/share/postgresql/{version}/extension")
    for zone in _ZONES:
        root.copy(Path("/usr/share/zoneinfo") / zone, f"/usr/share/zoneinfo/{zone}")
    root.folder("/srv/postgres", 0o700, POSTGRES)


def nginx(root: Root, package: Path) -> None:
    """The server of an unpacked package, and pages."""
    root.copy(package / "usr/sbin/nginx", "/usr/sbin/nginx")
    root.folder("/var/lib/nginx")
    root.folder("/var/log/nginx")
    for number in range(PAGES):
        root.write(f"/srv/www/{number}", page(number))
    root.write("/srv/nginx.conf", _NGINX.encode())


_NGINX = """\
worker_processes 2;
daemon off;
pid /run/nginx.pid;
error_log stderr;
events { worker_connections 256; }
http {
  access_log off;
  keepalive_timeout 1h;
  keepalive_requests 100000000;
  sendfile on;
  server {
    listen 8000;
    root /srv/www;
  }
}
"""
