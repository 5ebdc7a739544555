"""What an installation has, compared from three sides: the store's rows, what drivers say they hold, and the kernel.

The drivers' word is asked in each server's own network namespace; the kernel is looked at without them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.limits import Limits
from hostler.core.names import link_name
from hostler.core.specs import ImageSpec
from hostler.host import mountinfo, netns
from hostler.host.lab import UPLINK, machine_link
from hostler.operations.unasked import OPEN
from hostler.store.models import Address, Container, Image, Node, Operation
from tests.lab.installation import Platform
from tests.lab.machine import cgroup_folders, cgroup_members

#: What drivers hold of a running container, and of a stopped one, by kind.
_RUNNING = frozenset({"sandbox", "runtime state", "folder", "process", "cgroup", "link", "rules", "record", "subvolume"})
#: A container that came from another server runs without any.
_MAY_BE = frozenset({"runtime state"})
_STOPPED = frozenset({"folder", "subvolume"})
_EXPECTED = {"running": _RUNNING, "stopped": _STOPPED}
#: Of nobody in particular: the pool, and where CRIU keeps what it knows of the kernel.
_SHARED = frozenset({"pool", "mount"})
_CRIU = re.compile(r"criu (dump|pre-dump|restore|page-server|lazy-pages) ")


def leftovers(platform: Platform) -> list[str]:
    """Every difference, a sentence each. Containers must be running or stopped, and no operation open."""
    with platform.store.read() as session:
        rows = list(session.scalars(select(Container)))
        servers = {node.id: node.name for node in session.scalars(select(Node))}
        images = {ImageSpec(digest=image.digest, driver="rootfs", size=0).short: image.digest for image in session.scalars(select(Image)) if image.digest}
        found = [*_of_store(session), *_of_blobs(platform, set(images.values()))]
    for server in platform.servers:
        here = {row.id: row.state for row in rows if row.node_id and servers[row.node_id] == server}
        found += [f"{server}: {what}" for what in (*_of_drivers(platform, server, here, set(images)), *_of_kernel(platform, server, here))]
    return found + _of_machine(platform)


def settled(platform: Platform, seconds: float = 5) -> None:
    """Nothing is where it should not be; what ends in the background (a watch's last word) has a moment for it."""
    deadline = time.monotonic() + seconds
    while found := leftovers(platform):
        assert time.monotonic() < deadline, "\n".join(found)
        time.sleep(0.1)


# --- the store with itself ---


def _of_store(session: Session) -> Iterator[str]:
    for operation in session.scalars(select(Operation).where(Operation.state.in_((*OPEN, "needs_attention")))):
        yield f"operation {operation.kind} {operation.target_name} is {operation.state}"
    containers = {row.id: row for row in session.scalars(select(Container))}
    for row in containers.values():
        if row.state not in _EXPECTED:
            yield f"container {row.name} is {row.state}: {row.error}"
        if row.address is None:
            yield f"container {row.name} has no address"
    for address in session.scalars(select(Address).where(Address.container_id.is_not(None))):
        if address.container_id not in containers:
            yield f"address {address.number} is a lost container's, {address.container_id}"
    for node in session.scalars(select(Node)):
        yield from _of_promises(node, [Limits.model_validate(row.limits) for row in containers.values() if row.node_id == node.id])
    for image in session.scalars(select(Image).where(Image.state != "ready")):
        yield f"image {image.name} is {image.state}"


def _of_promises(node: Node, limits: list[Limits]) -> Iterator[str]:
    for what, promised, wanted in (
        ("CPUs", node.cpus_promised, sum(one.cpu or 0 for one in limits)),
        ("bytes of memory", node.memory_promised, sum(one.memory or 0 for one in limits)),
        ("bytes of disk", node.disk_promised, sum(one.disk or 0 for one in limits)),
    ):
        if abs(promised - wanted) > 1e-6:
            yield f"server {node.name} has promised {promised} {what}, its containers add up to {wanted}"


def _of_blobs(platform: Platform, digests: set[str]) -> Iterator[str]:
    folder = platform.apart.lab.control / "blobs"
    there = {f"sha256:{path.name}" for path in folder.iterdir() if path.is_file()}
    yield from (f"a checkpoint of operation {path.name} is on its way" for path in folder.glob("transfers/*"))
    yield from (f"archive {digest} is no image's" for digest in there - digests)


# --- what drivers hold ---


def _of_drivers(platform: Platform, server: str, here: dict[str, str], images: set[str]) -> Iterator[str]:
    with netns.entered(platform.netns(server)):
        items = [(driver.name, item) for driver in platform.drivers(server).all() for item in driver.inventory()]
    held: dict[str, set[str]] = defaultdict(set)
    for driver, item in items:
        if item.owner in here and item.kind != "draft":
            held[item.owner].add(item.kind)
        elif item.kind not in _SHARED and not (item.owner in images and item.kind == "subvolume"):
            yield f"driver {driver} has {item.kind} {item.name}, owned by {item.owner or 'nobody'}"
    for container, state in here.items():
        wanted = _EXPECTED.get(state, held[container])
        much, little = held[container] - wanted, wanted - held[container] - _MAY_BE
        if much or little:
            yield f"{state} container {container}: drivers have {sorted(much)} too much, {sorted(little)} too little"


# --- what the kernel has ---


def _of_kernel(platform: Platform, server: str, here: dict[str, str]) -> Iterator[str]:
    running = {container for container, state in here.items() if state == "running"}
    yield from _of_cgroups(platform, server, running)
    yield from _of_links(platform, server, running)
    yield from _of_subvolumes(platform, server, set(here))
    yield from _of_files(platform, server, set(here), running)


def _of_cgroups(platform: Platform, server: str, running: set[str]) -> Iterator[str]:
    group = f"hostler-{platform.apart.lab.installation}-{server}"
    for folder in cgroup_folders(group):
        for account in (entry for entry in folder.iterdir() if entry.is_dir()):
            there = {entry.name for entry in account.iterdir() if entry.is_dir()}
            yield from (f"cgroup {account}/{container}" for container in sorted(there - running))
            if not there or not account.name.startswith("account."):
                yield f"cgroup {account} is nobody's"
    members = {path.partition(f"/{group}/")[2].split("/")[1] for _, path in cgroup_members(f"/{group}/")}
    yield from (f"a process in the cgroup of {container}" for container in sorted(members - running))
    yield from (f"no process in the cgroup of {container}" for container in sorted(running - members))


def _of_links(platform: Platform, server: str, running: set[str]) -> Iterator[str]:
    lab = platform.apart.lab
    links = {link["ifname"] for link in json.loads(platform.in_server(server, "ip", "-j", "link"))}
    ours = {name for name in links if name not in ("lo", UPLINK, link_name("b", f"{lab.installation}/{server}", "bridge")) and not name.startswith("ifb")}
    ends = {link_name("v", f"{lab.installation}/{server}", container): container for container in running}
    for name in sorted(ours):
        if "v" + name[1:13] not in ends:
            yield f"link {name}"
    missing = set(ends) - {name[:13] for name in ours}
    yield from (f"running container {ends[name]} has no link" for name in sorted(missing))


def _of_subvolumes(platform: Platform, server: str, here: set[str]) -> Iterator[str]:
    listed = subprocess.run(["btrfs", "subvolume", "list", platform.pool(server)], capture_output=True, text=True, check=True, timeout=30).stdout
    volumes = {path.rpartition("/")[2] for path in re.findall(r" path (\S+)$", listed, re.MULTILINE) if "/volumes/" in path}
    yield from (f"subvolume of {volume}" for volume in sorted(volumes - here))
    yield from (f"no subvolume of {volume}" for volume in sorted(here - volumes))
    if ".draft" in listed:
        yield f"draft among subvolumes: {listed}"


def _of_files(platform: Platform, server: str, here: set[str], running: set[str]) -> Iterator[str]:
    state = platform.state(server)
    for folder, wanted in (("containers", here), ("scratch", set()), ("revivals", set())):
        there = set(os.listdir(state / folder)) if (state / folder).is_dir() else set()
        yield from (f"file {folder}/{name}" for name in sorted(there - wanted))
    for driver in sorted(entry for entry in (state / "ns").glob("*") if entry.is_dir()):
        of_driver = {container for container in running if _ns_driver(state, container) == driver.name}
        for kind in ("bundles", "state"):
            there = {name for name in os.listdir(driver / kind) if not name.startswith(".")} if (driver / kind).is_dir() else set()
            yield from (f"file {driver.name}/{kind}/{name}" for name in sorted(there - of_driver))
    yield from (f"standstill {folder}" for folder in here if (state / "containers" / folder / "still.json").exists())
    yield from (f"draft {path}" for folder in here for path in sorted((state / "containers" / folder).glob(".*")))


def _ns_driver(state: Path, container: str) -> str:
    """The driver that made a running container; no name when the server knows of none."""
    record = state / "containers" / container / "init.json"
    return str(json.loads(record.read_text())["driver"]) if record.exists() else ""


def _of_machine(platform: Platform) -> list[str]:
    lab = platform.apart.lab
    meant = {point for server in platform.servers for point in (platform.pool(server), platform.state(server) / "lxcfs")}
    found = [f"mount {mount.point}" for mount in mountinfo.read() if lab.home in mount.point.parents and mount.point not in meant]
    links = {line.split(":")[0].strip() for line in platform.apart.run("cat", "/proc/net/dev").stdout.splitlines()[2:]}
    found += [f"the machine's link {name}" for name in sorted(links - {"lo", machine_link(lab.installation)}) if not name.startswith("ifb")]
    return found + [f"process {pid}: {words}" for pid, words in _runtime_processes(lab.home)]


def _runtime_processes(home: Path) -> Iterator[tuple[int, str]]:
    """Runtimes and launchers at work: they end with the step that started them."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if str(home) in words and (re.match(r"(\S*/)?(runc|crun|hostler-launch|hostler-enter|hostler-hook) ", words) or _CRIU.search(words)):
                yield int(entry.name), words.strip()
