"""The mounts of this process: ``/proc/self/mountinfo``, as ``proc(5)`` documents it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line. ``root`` is the folder of the file system that is mounted, ``kind`` the file system's type."""

    point: Path
    root: str
    device: tuple[int, int]
    kind: str
    source: str
    super_options: tuple[str, ...]


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def parse(text: str) -> list[Mount]:
    """The mounts in the order they were made."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        major, minor = fields[2].split(":")
        mounts.append(
            Mount(
                point=Path(_plain(fields[4])),
                root=_plain(fields[3]),
                device=(int(major), int(minor)),
                kind=tail[0],
                source=_plain(tail[1]),
                super_options=tuple(tail[2].split(",")) if len(tail) > 2 else (),
            )
        )
    return mounts


def read(file: Path = Path("/proc/self/mountinfo")) -> list[Mount]:
    """The mounts that ``file`` tells of."""
    return parse(file.read_text())
