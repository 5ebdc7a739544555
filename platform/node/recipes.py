"""Image recipes: root file systems made on this machine, from its own programs and package sources.

The archives are uploaded and unpacked like anybody's (images driver ``rootfs``). Nothing in them tells
of the machine but the package mirror in the Debian image's apt sources, which its tenants may use as well; a
password in its address is left out.
"""

from __future__ import annotations

import os
import platform as machine
import re
import shlex
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard

from hostler.core.errors import HostFailure, Invalid, Unsupported
from hostler.host import process
from hostler.node.busybox import write_busybox

Progress = Callable[[str], None]

#: Seconds. A mirror on another continent and a slow disk are still within it.
_DEBIAN_TIMEOUT = 1200
_TAR_TIMEOUT = 300
_LEVEL = 3

#: Beside what dpkg calls essential. usr-is-merged spares the 47 MB of perl that usrmerge would pull in.
_DEBIAN_PACKAGES = ("apt", "busybox", "ca-certificates", "iproute2", "usr-is-merged")
_DEBIAN_LEFT_OUT = ("doc", "info", "man", "locale", "lintian")
#: Run by mmdebstrap, with the new root as $1: what is this build's or this machine's own goes.
_DEBIAN_TIDY = (
    'rm -f "$1"/etc/hostname "$1"/etc/resolv.conf "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/var/log/*.log '
    '"$1"/var/log/apt/* "$1"/var/lib/dpkg/*-old "$1"/var/cache/debconf/*-old "$1"/var/cache/ldconfig/aux-cache; '
    ': >"$1"/etc/machine-id; : >"$1"/etc/hostname; : >"$1"/etc/resolv.conf; '
    'printf "127.0.0.1 localhost\\n::1 localhost\\n" >"$1"/etc/hosts; '
    'find "$1"/etc/apt -name "*.list" -exec sed -i "s#://[^/@ ]*@#://#" {} +'
)


@dataclass(frozen=True)
class Recipe:
    """One image that can be built here. ``packages`` are the Debian packages this machine needs for it."""

    name: str
    description: str
    packages: tuple[str, ...]
    make: Callable[[Path, str, Progress], Path]
    """Writes a tar into a folder, given a network namespace (or nothing) and where to report; gives the tar's path."""


def build(recipe: str, work: Path, *, netns: str = "", progress: Progress | None = None) -> Path:
    """Make an image's root file system; the result is a tar with zstd in ``work``, owned by the caller.

    ``netns`` is the path of a network namespace that reaches the package mirror; empty: the caller's own.
    ``progress`` is called with lines of text, from another thread. Raises :class:`Invalid` for an unknown
    recipe, :class:`Unsupported` where a program is missing, :class:`HostFailure` or :class:`Timeout` where
    one fails. A failure leaves nothing in ``work``.
    """
    chosen = RECIPES.get(recipe)
    if chosen is None:
        raise Invalid(f"there is no recipe {recipe!r}", hint=f"known are: {', '.join(sorted(RECIPES))}")
    target = work / f"{recipe}.tar.zst"
    with tempfile.TemporaryDirectory(prefix="recipe-", dir=work) as scratch:
        tar = chosen.make(Path(scratch), netns, progress or _silent)
        packed = Path(scratch) / "packed"
        with tar.open("rb") as plain, packed.open("wb") as out:
            zstandard.ZstdCompressor(level=_LEVEL, threads=-1).copy_stream(plain, out, size=tar.stat().st_size)
        packed.replace(target)
    return target


def _silent(line: str) -> None:
    """Progress that nobody wants to see."""


def _program(name: str, package: str) -> Path:
    found = shutil.which(name, path=process.environment()["PATH"])
    if found is None:
        raise Unsupported(f"this server lacks the program {name}", hint=f"install Debian's package {package}")
    return Path(found)


# --- busybox ---


def _make_busybox(scratch: Path, netns: str, progress: Progress) -> Path:
    program = _program("busybox", "busybox-static")
    applets = process.run([program, "--list-full"]).text.split()
    tar = scratch / "busybox.tar"
    with tar.open("wb") as out:
        write_busybox(out, program, applets)
    progress(f"busybox with {len(applets)} applets")
    return tar


# --- debian ---


def _make_debian(scratch: Path, netns: str, progress: Progress) -> Path:
    mmdebstrap, tar_program = _program("mmdebstrap", "mmdebstrap"), _program("tar", "tar")
    root, tar = scratch / "root", scratch / "debian.tar"
    enter = ("nsenter", f"--net={netns}", "--") if netns else ()
    sources = scratch / "debian.list"
    # In a file of our own, as addresses may hold passwords, which a command line would show.
    sources.touch(mode=0o600)
    sources.write_text("\n".join(_sources()) + "\n")
    words = (*enter, mmdebstrap, *_debian_options(), _codename(), root, sources)
    with _lines(progress) as (stderr, tail):
        result = process.run(
            words, timeout=_DEBIAN_TIMEOUT, check=False, stdout=stderr, stderr=stderr, env={"TMPDIR": str(scratch)}
        )
    if result.returncode != 0:
        raise HostFailure(
            f"mmdebstrap failed with status {result.returncode}: {' '.join(tail)[-600:] or 'no message'}",
            hint="see that `apt-get update` works on this server; the command was: "
            + shlex.join(str(word) for word in words)[:600],
            code="program_failed",
        )
    progress("I: packing the root file system...")
    process.run(
        [tar_program, "--create", f"--file={tar}", f"--directory={root}", "--sort=name", "--numeric-owner", "--xattrs",
         "--xattrs-include=security.capability", "--exclude=./dev/*", "."],
        timeout=_TAR_TIMEOUT,
    )  # fmt: skip
    return tar


def _debian_options() -> list[str]:
    options = ["--variant=essential", "--format=directory", "--skip=output/dev", f"--include={','.join(_DEBIAN_PACKAGES)}"]
    options.append("--mode=root" if os.geteuid() == 0 else "--mode=unshare")
    if (hooks := Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")).is_dir():
        options.append(f"--hook-dir={hooks}")
    options += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _DEBIAN_LEFT_OUT]
    # Licences ask to travel with the programs.
    options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    # A suite's own date of expiry means nothing on a mirror that is frozen, or where the clock is ahead.
    options += ['--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Languages "none"']
    for scheme in ("http", "https"):
        if proxy := _apt_setting(f"Acquire::{scheme}::Proxy"):
            options.append(f'--aptopt=Acquire::{scheme}::Proxy "{proxy}"')
    return [*options, f"--customize-hook={_DEBIAN_TIDY}"]


def without_password(text: str) -> str:
    """Text with the user and password of each address in it left out."""
    return re.sub(r"://[^/@\s]*@", "://", text)


def _apt_setting(name: str) -> str:
    """A value of apt's configuration on this machine; empty when it has none."""
    text = process.run([_program("apt-config", "apt"), "shell", "VALUE", name]).text
    return "".join(shlex.split(text)).removeprefix("VALUE=")


def _codename() -> str:
    try:
        name = machine.freedesktop_os_release().get("VERSION_CODENAME", "")
    except OSError:
        name = ""
    if not name:
        raise Unsupported(
            "this server's /etc/os-release names no release (VERSION_CODENAME)",
            hint="build this image on a server that runs Debian",
        )
    return name


def _sources() -> list[str]:
    """apt's own sources on this machine for the release it runs, as one-line entries."""
    layout = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
    text = process.run([_program("apt-get", "apt"), "indextargets", "--format", layout, "Created-By: Packages"]).text
    found = release_sources(text, _codename(), machine.freedesktop_os_release().get("ID", "debian"))
    if not found:
        raise Unsupported(
            f"this server has no package source for {_codename()}",
            hint="add one to /etc/apt/sources.list.d and run `apt-get update`",
        )
    return found


def release_sources(targets: str, codename: str, distribution: str) -> list[str]:
    """Source lines for a release, from lines ``URI|release|component|origin`` of ``apt-get indextargets``.

    Other publishers' repositories, which may name their suites alike, are told by the origin, known once apt
    has fetched their indexes.
    """
    wanted = {codename, f"{codename}-updates", f"{codename}-security"}
    lines = []
    for target in targets.splitlines():
        uri, release, component, origin = target.split("|")
        ours = origin.lower() == distribution.lower() or not origin or origin.startswith("$(")
        if release in wanted and component == "main" and ours:
            lines.append(f"deb {uri} {release} {component}")
    return list(dict.fromkeys(lines))


@contextmanager
def _lines(progress: Progress) -> Iterator[tuple[IO[bytes], deque[str]]]:
    """A file to give a program for its output: its lines go to ``progress``, the last few are kept."""
    tail: deque[str] = deque(maxlen=12)
    reading, writing = os.pipe()

    def follow() -> None:
        with open(reading, encoding="utf-8", errors="replace") as text:
            for line in text:
                if stripped := without_password(line.strip()):
                    tail.append(stripped)
                    progress(stripped)

    thread = threading.Thread(target=follow, name="recipe-output", daemon=True)
    thread.start()
    try:
        with open(writing, "wb", buffering=0) as out:
            yield out, tail
    finally:
        thread.join(timeout=10)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "busybox",
            "busybox alone: a shell, the usual small programs and a web server; 2 MB, made in a moment",
            ("busybox-static",),
            _make_busybox,
        ),
        Recipe(
            "debian",
            "a minimal Debian of the release that the server runs, with apt and busybox's web server; 90 MB",
            ("mmdebstrap", "tar"),
            _make_debian,
        ),
    )
}
