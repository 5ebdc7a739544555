"""Boots a stock Debian kernel in qemu with this checkout inside, and runs pytest there.

    run.py --image FOLDER [--minutes N] -- PYTEST ARGUMENTS…

``FOLDER`` is what ops/vm/image made. The console is shown as it comes and kept; pytest's status is this program's.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from console import Console

CHECKOUT = Path(__file__).resolve().parents[2]
#: What of the checkout goes into the machine.
PARTS = ("platform", "plugins", "tests", "ops", "docs", "pyproject.toml", "README.md", ".pypath", ".tools/libexec")
MINUTES = 40.0
_POOL, _RESULTS = 6 << 30, 64 << 20
_KEPT = 5
#: Measured: with two processors, five-level page tables or SMAP, kernel 6.12 panics now and then under emulation. Without ``cx16=off``
#: too: after a ``cmpxchg16b`` of the allocator qemu 7.2 once had half a pointer for flags.
_MACHINE = ("-accel", "tcg", "-machine", "q35", "-cpu", "max,la57=off,smap=off,cx16=off", "-smp", "1", "-m", "3072")
_KERNEL = "root=/dev/vda rw console=ttyS0 quiet loglevel=3 panic=-1 init=/opt/hostler/init"


def qemu(image: Path, files: Path, pool: Path, results: Path) -> list[str]:
    """The command. The root is not written to: changes go to a file that is gone afterwards."""
    words = ["nice", "-n", "10", "qemu-system-x86_64", *_MACHINE, "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd")]
    words += ["-append", _KERNEL, "-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none", "-no-reboot"]
    for disk, options in ((image / "root.ext4", ",snapshot=on"), (files, ",readonly=on"), (pool, ",cache=unsafe"), (results, "")):
        words += ["-drive", f"file={disk},format=raw,if=virtio{options}"]
    return words


def pack(image: Path, file: Path, scratch: Path, arguments: Sequence[str]) -> None:
    """The disk with this run's files: the checkout, its wheel unpacked and compiled by the machine's own Python, pytest's arguments."""
    own = scratch / "own"
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch], cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        wheel.extractall(own)
    tree = image / "tree"
    loader = [tree / "usr/lib64/ld-linux-x86-64.so.2", "--library-path", tree / "usr/lib/x86_64-linux-gnu", next(tree.glob("usr/bin/python3.[0-9]*"))]
    compiling = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", own, "-p", "/opt/hostler/own", own]
    subprocess.run([*loader, *compiling], env={"PATH": os.environ["PATH"], "PYTHONHOME": str(tree / "usr")}, check=True, timeout=120)
    (scratch / "arguments").write_bytes(b"".join(argument.encode() + b"\0" for argument in arguments))
    with tarfile.open(file, "w") as out:
        out.add(own, "hostler/own")
        out.add(scratch / "arguments", "hostler/arguments")
        for part in PARTS:
            if (CHECKOUT / part).exists():
                out.add(CHECKOUT / part, f"hostler/checkout/{part}", filter=lambda info: None if info.name.endswith("__pycache__") else info)


def follow(process: subprocess.Popen[bytes], log: Path, minutes: float) -> Console:
    """Show and keep what the machine says until it has ended, broken or run out of time."""
    assert process.stdout is not None
    console, began = Console(), time.monotonic()
    with log.open("wb", buffering=0) as kept:
        while not console.ended:
            left = began + minutes * 60 - time.monotonic()
            if left <= 0:
                console.broken = f"it did not end within {minutes:g} minutes"
                break
            if not select.select([process.stdout], [], [], min(left, 5))[0]:
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            kept.write(data)
            if not data:
                console.broken = "it went off in the middle"
                break
            for line in console.feed(data):
                print(line, flush=True)
    return console


def end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Wait until the machine is off, and end it when it takes longer than ``grace`` seconds."""
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def take_results(disk: Path, folder: Path) -> None:
    """What the machine wrote to its last disk: nothing when it did not come so far."""
    try:
        with tarfile.open(disk, "r:") as archive:
            archive.extractall(folder, filter="data")
    except tarfile.ReadError:
        print("the machine left no results", file=sys.stderr)


def run(image: Path, folder: Path, arguments: Sequence[str], minutes: float) -> int:
    """One machine's life. Status of pytest; 124 when the machine failed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hst-vm-", dir=folder) as made:
        scratch = Path(made)
        files, pool, results = (scratch / name for name in ("files", "pool", "results"))
        pack(image, files, scratch, arguments)
        for disk, size in ((pool, _POOL), (results, _RESULTS)):
            with disk.open("wb") as file:
                file.truncate(size)
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(scratch)}
        process = subprocess.Popen(qemu(image, files, pool, results), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment)
        try:
            console = follow(process, folder / "console.log", minutes)
            end(process, 0 if console.broken else 20)
        finally:
            process.kill()
            process.wait()
        take_results(results, folder)
    if console.status is None:
        print(f"the machine failed after {time.monotonic() - began:.0f} s: {console.broken}; all it said is in {folder}/console.log", file=sys.stderr)
        return 124
    return console.status


def new_folder(cache: Path) -> Path:
    """A folder for a run's console and results; only the newest few are kept."""
    runs = cache / "runs"
    runs.mkdir(exist_ok=True)
    for old in sorted(runs.iterdir())[: -_KEPT + 1]:
        shutil.rmtree(old)
    folder = runs / time.strftime("%Y-%m-%dT%H-%M-%S")
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def alone(cache: Path) -> Iterator[None]:
    """One machine at a time: each takes a whole processor."""
    with (cache / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another machine is at work here; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="pytest in a stock Debian kernel")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("HOSTLER_VM_MINUTES", MINUTES)))
    parser.add_argument("arguments", nargs="*")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the machine is ended too
    with alone(asked.image.parent):
        folder = new_folder(asked.image.parent)
        print(f"a machine is emulated; its console is kept in {folder}/console.log", flush=True)
        return run(asked.image, folder, asked.arguments, asked.minutes)


if __name__ == "__main__":
    sys.exit(main())
