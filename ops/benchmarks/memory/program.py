"""The image with the program: busybox and ``hog``, compiled here; and somebody who talks to one."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import finish

from hostler.client.client import Client
from hostler.core.errors import Unsupported
from hostler.host.process import run
from hostler.node.busybox import write_busybox

PORT = 8000
_HERE = Path(__file__).parent
_FLAGS = ("-std=gnu11", "-O2", "-static", "-s", "-pthread", "-Wall", "-Wextra", "-Werror")


def compile_hog(target: Path) -> None:
    """Compile it. Raises :class:`Unsupported` without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unsupported("there is no C compiler (cc) on this server", hint="apt-get install gcc libc6-dev")
    run([compiler, *_FLAGS, "-o", target, _HERE / "hog.c"], timeout=120)


def stocked(client: Client) -> str:
    """Name of the image, which is imported if it is not there."""
    name = f"bench-hog-{hashlib.sha256((_HERE / 'hog.c').read_bytes()).hexdigest()[:8]}"
    if name in {image.name for image in client.images()}:
        return name
    with tempfile.TemporaryDirectory(prefix="hostler-bench-") as folder:
        hog, archive = Path(folder, "hog"), io.BytesIO()
        compile_hog(hog)
        busybox = Path(shutil.which("busybox") or "busybox")
        write_busybox(archive, busybox, run([busybox, "--list-full"]).text.split())
        archive.seek(0)
        with tarfile.open(fileobj=archive, mode="a") as tar:
            entry = tarfile.TarInfo("bin/hog")
            content = hog.read_bytes()
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    whole = archive.getvalue()
    finish(client, client.import_image(name, [whole], len(whole)))
    return name


@dataclass
class Talk:
    """What a client has seen."""

    count: int = 0
    worst: float = 0.0
    gaps: list[list[float]] = field(default_factory=list)


@contextmanager
def talking(address: str, port: int = PORT) -> Iterator[Talk]:
    """Somebody asks every millisecond, over one connection; afterwards the result says what was seen. Raises when an answer was wrong or none."""
    words = [sys.executable, str(_HERE / "talk.py"), address, str(port)]
    seen = Talk()
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdout.readline()
            yield seen
        finally:
            out, errors = process.communicate(timeout=60)
    if process.returncode != 0:
        raise ConnectionError(f"the client's connection to {address} broke: {errors.strip().splitlines()[-1:]}")
    told: dict[str, Any] = json.loads(out)
    seen.count, seen.worst, seen.gaps = told["count"], told["worst"], told["gaps"]
