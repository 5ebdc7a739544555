"""Namespaces: the OCI runtime itself, with the same namespaces, ids, capabilities and seccomp profile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from bare.step import Step, Subject, tool
from hostler.core.specs import ExecSpec
from hostler.testing.arenas.ns import NsArena

_PLAIN = ("/proc", "/dev", "/dev/pts", "/dev/shm", "/sys")
_HYBRID = "/sys/fs/cgroup/unified"


class Runtime(Subject):
    """``create``, ``start``, ``exec`` … of a bundle without the platform's init, log and volumes."""

    def __init__(self, arena: NsArena) -> None:
        self.driver, self._arena = arena.ns, arena
        self._bundle = arena.folder / "bundle"
        arena.do(arena.making(0))
        self._write_bundle(arena)
        self.driver.forget(arena.container_spec(0).id)
        self._hidden = self._without_hybrid() if self.driver.name == "crun" and Path(_HYBRID).exists() else None
        self._words: list[str | Path] = [self.driver.name, "--root", arena.folder / "bare-state"]
        if self._hidden is not None:
            self._words = ["nsenter", f"--mount=/proc/{self._hidden.pid}/ns/mnt", *self._words, "--cgroup-manager", "disabled"]

    def _write_bundle(self, arena: NsArena) -> None:
        config: dict[str, Any] = json.loads(next(arena.recipe.host.state_dir.glob("ns/*/bundles/*/config.json")).read_text())
        self._bundle.mkdir()
        root = self._bundle / "root"
        shutil.copytree(arena.folder / "root", root, symlinks=True)
        linux = dict(config["linux"]) | {"cgroupsPath": f"hostler-bench-{os.getpid()}"}
        base = linux["uidMappings"][0]["hostID"]
        for path in (root, *root.rglob("*")):
            os.chown(path, base, base, follow_symlinks=False)
        process = dict(config["process"]) | {"args": ["/bin/busybox", "sleep", "600"]}
        mounts = [mount for mount in config["mounts"] if mount["destination"] in _PLAIN]
        plain = config | {"root": {"path": str(root)}, "linux": linux, "mounts": mounts, "process": process}
        (self._bundle / "config.json").write_text(json.dumps(plain))

    def _without_hybrid(self) -> subprocess.Popen[bytes]:
        """A process in a mount namespace in which crun works: it refuses version 2 of cgroups beside version 1."""
        process = subprocess.Popen(["unshare", "--mount", "sh", "-c", f"umount {_HYBRID} && exec sleep 3600"])
        deadline = time.monotonic() + 10
        while Path(f"/proc/{process.pid}/comm").read_text().strip() != "sleep":
            if time.monotonic() > deadline:
                raise TimeoutError("unshare did not start")
            time.sleep(0.01)
        return process

    def _bare(self, *words: str | Path) -> partial[None]:
        return partial(tool, *self._words, *words)

    def steps(self, number: int) -> list[Step]:
        driver, making = self.driver, self._arena.making(0)
        name, bare = making[1][0].id, f"bare{number}"
        grouped = self._hidden is None
        return [
            Step("create", partial(self._arena.do, making), self._bare("create", "--bundle", self._bundle, bare), "ours mounts the volume and starts an init and the log"),
            Step("start", partial(driver.start, name), self._bare("start", bare)),
            Step("inspect", partial(driver.inspect, name), self._bare("state", bare)),
            Step("exec", partial(driver.exec, name, ExecSpec(args=("true",))), self._bare("exec", bare, "/bin/busybox", "true"), "true"),
            Step("freeze", partial(driver.freeze, name), self._bare("pause", bare) if grouped else None),
            Step("thaw", partial(driver.thaw, name), self._bare("resume", bare) if grouped else None),
            Step("delete", partial(driver.delete, name), self._bare("delete", "--force", bare), "of a running one"),
        ]

    def close(self) -> None:
        if self._hidden is not None:
            self._hidden.kill()
            self._hidden.wait()
