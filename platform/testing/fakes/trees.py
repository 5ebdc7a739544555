"""A folder's content as a value: copied, compared, sent. For trees of a test's size."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from hostler.core.errors import Invalid

#: path → (``f``, ``d`` or ``l``, mode, content in base 64 or a link's target)
Tree = dict[str, tuple[str, int, str]]


def read(folder: Path) -> Tree:
    """All that is below ``folder``."""
    tree: Tree = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode & 0o7777
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            tree[name] = ("l", 0o777, os.readlink(path))
        elif path.is_dir():
            tree[name] = ("d", mode, "")
        else:
            tree[name] = ("f", mode, base64.b64encode(path.read_bytes()).decode())
    return tree


def write(folder: Path, tree: Mapping[str, tuple[str, int, str]]) -> None:
    """Make it all below the empty ``folder``. Raises :class:`Invalid` for a name that leads elsewhere."""
    for name in sorted(tree):
        kind, mode, content = tree[name]
        path = folder / inside(name)
        if any((folder / parent).is_symlink() for parent in PurePosixPath(name).parents if str(parent) != "."):
            raise Invalid(f"{name!r} leads through a link", hint="the data was made by no honest hand")
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "l":
            path.symlink_to(content)
        elif kind == "d":
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(base64.b64decode(content))
            path.chmod(mode)


def inside(name: str) -> str:
    """``name``, a path that stays below where it is put. Raises :class:`Invalid`."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise Invalid(f"{name[:80]!r} leads out of its folder", hint="the data was made by no honest hand")
    return name


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
