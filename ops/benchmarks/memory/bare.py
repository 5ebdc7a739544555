"""The same program checkpointed and restored by the bare runtime, with the same CRIU: ``runc checkpoint`` and ``runc restore``."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from functools import partial
from pathlib import Path

from measure import Series, timed

from hostler.host.process import run
from memory.program import compile_hog

_TIMEOUT = 120


def runc(criu: Path, megabytes: int, count: int) -> tuple[Series, Series]:
    """Checkpoint and restore, ``count`` times. Namespaces of its own but for user and network, as ``runc spec`` has it; images on the disk."""
    down, up = Series(), Series()
    folder = Path(tempfile.mkdtemp(prefix="hostler-bench-"))
    name, port = f"bench{os.getpid()}", _free_port()
    words = ["runc", "--root", folder / "state", "--criu", criu]
    path = {"PATH": f"{criu.parent}:{os.environ['PATH']}"}
    try:
        _bundle(folder, name, port, megabytes)
        with open(os.devnull, "wb") as nothing:
            run([*words, "run", "-d", "--bundle", folder, name], timeout=_TIMEOUT, stdout=nothing, stderr=nothing, env=path)
            try:
                for number in range(count):
                    _until_listening(port)
                    images = folder / f"images-{number}"
                    kept = ["--image-path", images, "--work-path", images, "--tcp-established", "--file-locks"]
                    down.add(timed(partial(run, [*words, "checkpoint", *kept, name], timeout=_TIMEOUT, env=path)))
                    restore = [*words, "restore", "-d", "--bundle", folder, *kept, name]
                    up.add(timed(partial(run, restore, timeout=_TIMEOUT, stdout=nothing, stderr=nothing, env=path)))
                    shutil.rmtree(images)
            finally:
                run([*words, "delete", "--force", name], timeout=_TIMEOUT, check=False)
    finally:
        shutil.rmtree(folder)
    return down, up


def _bundle(folder: Path, name: str, port: int, megabytes: int) -> None:
    for part in ("root/bin", "root/proc", "root/dev", "root/sys"):
        (folder / part).mkdir(parents=True)
    compile_hog(folder / "root/bin/hog")
    run(["runc", "spec", "--bundle", folder])
    config = json.loads((folder / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/hog", str(port), str(megabytes), "0"]}
    config["root"] = {"path": str(folder / "root")}
    linux = config["linux"]
    linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] != "network"]
    linux["cgroupsPath"] = f"hostler-bench-{name}"
    (folder / "config.json").write_text(json.dumps(config))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _until_listening(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
