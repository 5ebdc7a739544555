"""CRIU's command lines, pure. https://criu.org/CLI

Why the options are what they are:

* ``--manage-cgroups=ignore``: the limits driver makes the cgroups, hostler-launch joins them;
* ``--network-lock skip``: the net driver holds the network, which costs nothing beside the 50 ms of iptables;
* ``--empty-ns net``: the links are the net driver's, attached while CRIU waits at *setup-namespaces*;
* ``--freeze-cgroup``: what was frozen before a dump is frozen after it, whatever becomes of CRIU;
* ``--skip-in-flight``: a connection that nobody has accepted yet is let go; its client tries again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

#: Of a dump: CRIU is ready and has not looked at any process yet.
READY = "pre-dump"
#: Of a restore: the namespaces exist, mounts are made in them, all is restored and nothing runs yet, and it runs.
NAMESPACES, MOUNTED, RESTORED, RESUMED = "setup-namespaces", "post-setup-namespaces", "post-restore", "post-resume"
_COMMON = ("--manage-cgroups=ignore", "--network-lock", "skip", "--empty-ns", "net", "--file-locks", "-v2")
_KEEP, _CLOSE = "--tcp-established", "--tcp-close"


def dump(pid: int, images: Path, outside: Mapping[str, str], freezer: str | None, parent: Path | None, hook: Path | None = None) -> list[str]:
    """``criu dump`` of the tree below ``pid``. ``parent`` lies beside ``images``; ``hook`` is asked before anything is looked at."""
    words = ["dump", "--tree", str(pid), "--images-dir", str(images), "--log-file", "dump.log", *_COMMON]
    words += [_KEEP, "--leave-running", "--skip-in-flight", "--display-stats", "--ghost-limit", "64M"]
    words += _externals(outside.items())
    words += ["--action-script", str(hook)] if hook is not None else []
    return words + _freezer(freezer) + _parent(images, parent)


def pre_dump(pid: int, images: Path, outside: Mapping[str, str], parent: Path | None) -> list[str]:
    """``criu pre-dump``: memory only, by ``process_vm_readv``, so that the container runs on meanwhile."""
    words = ["pre-dump", "--tree", str(pid), "--images-dir", str(images), "--log-file", "dump.log", *_COMMON]
    words += [_KEEP, "--track-mem", "--pre-dump-mode", "read", "--display-stats"]
    return words + _externals(outside.items()) + _parent(images, parent)


def restore(images: Path, work: Path, root: Path, outside: Mapping[str, Path], hook: Path, close: bool) -> list[str]:
    """``criu restore``, which stops at the stages that the hook's environment names."""
    words = ["restore", "--images-dir", str(images), "--work-dir", str(work), "--log-file", "restore.log", *_COMMON]
    words += [_CLOSE if close else _KEEP, "--root", str(root), "--restore-detached", "--action-script", str(hook)]
    return words + _externals((name, str(source)) for name, source in outside.items())


def _externals(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [word for one, other in pairs for word in ("--external", f"mnt[{one}]:{other}")]


def _freezer(folder: str | None) -> list[str]:
    return ["--freeze-cgroup", folder] if folder else []


def _parent(images: Path, parent: Path | None) -> list[str]:
    """CRIU takes the parent's path relative to the images, so that both may be moved."""
    return ["--track-mem", "--prev-images-dir", f"../{parent.name}"] if parent is not None and parent.parent == images.parent else []
