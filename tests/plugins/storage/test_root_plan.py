"""A volume as a container's root: its plan carried out by hostler-launch, with ids shifted."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.contracts.storage import IdmapMount, Storage
from hostler.core.units import MIB
from hostler.host import mounts, native
from hostler_plugins.storage.btrfs import Btrfs
from hostler_plugins.storage.overlay import Overlay
from tests.plugins.storage.content import IMAGE

pytestmark = pytest.mark.lab

BASE = 1_000_000


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher, compiled."""
    folder = tmp_path_factory.mktemp("libexec")
    native.build(folder)
    return folder / "hostler-launch"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="hst-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def inside(launch: Path, scratch: Path, storage: Storage, volume: str, program: list[str], user: int = 0) -> str:
    """Run a program as the container's ``user``, in the folder that is to be its root; what it prints."""
    words = [str(launch), "--scratch", str(scratch), "--ids", str(BASE), "65536"]
    for mount in storage.root_plan(volume).mounts:
        if isinstance(mount, IdmapMount):
            words += ["--idmap", str(mount.source), mount.target]
        else:
            words += ["--overlay", ":".join(mount.lower), mount.upper, mount.work, mount.target]
    identity = str(BASE + user)
    words += ["--", "setpriv", "--reuid", identity, "--regid", identity, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    words += ["sh", "-c", 'cd "$0/root" && exec "$@"', str(scratch), *program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def test_the_containers_root_owns_its_files_and_others_do_not(launch: Path, scratch: Path, storage: Storage) -> None:
    storage.create("v1", IMAGE, 16 * MIB)
    script = "echo mine > etc/new && rm bin/two && mkdir -p var/log && mv etc/ünïcode-名前 etc/moved && stat -c '%u %U' etc/new && cat etc/moved"
    assert inside(launch, scratch, storage, "v1", ["sh", "-c", script]).split() == [str(BASE), "UNKNOWN", "grüße"]
    assert "denied" in inside(launch, scratch, storage, "v1", ["sh", "-c", "echo no > etc/new"], user=1000)
    assert inside(launch, scratch, storage, "v1", ["sh", "-c", "cat etc/new; ls bin; ls etc"]).split() == ["mine", "one", "hosts", "moved", "new"]
    assert not mounts.mounts_below(scratch)


def test_files_on_disk_belong_to_small_ids_and_the_image_is_untouched(launch: Path, scratch: Path, storage: Storage) -> None:
    storage.create("v1", IMAGE, 16 * MIB)
    inside(launch, scratch, storage, "v1", ["sh", "-c", "chmod 777 . && echo x > of-root && rm etc/hosts"])
    inside(launch, scratch, storage, "v1", ["sh", "-c", "echo x > of-1000"], user=1000)
    layered = isinstance(storage, Overlay)
    mount = storage.root_plan("v1").mounts[1 if layered else 0]
    assert isinstance(mount, IdmapMount)
    folder = mount.source / "upper" if layered else mount.source
    assert (folder / "of-root").stat().st_uid == 0
    assert (folder / "of-1000").stat().st_uid == 1000
    storage.create("v2", IMAGE, 16 * MIB)
    assert inside(launch, scratch, storage, "v2", ["sh", "-c", "ls . && ls etc"]).split() == ["bin", "etc", "hosts", "ünïcode-名前"]
    storage.delete("v1")
    storage.delete("v2")
    assert {item.owner for item in storage.inventory() if item.kind != "pool"} == {IMAGE}


def test_an_unprivileged_tenant_can_nest_subvolumes_within_its_quota(launch: Path, scratch: Path, pool: Btrfs) -> None:
    """What docker's btrfs driver does inside of a container."""
    pool.create("v1", IMAGE, 16 * MIB)
    script = "btrfs -q subvolume create nested && dd if=/dev/urandom of=nested/f bs=64k count=1024; sync nested/f; stat -c ' %s' nested/f >&2"
    said = inside(launch, scratch, pool, "v1", ["sh", "-c", script])
    assert "quota exceeded" in said
    assert abs(int(said.split()[-1]) - 16 * MIB) < 2 * MIB
    pool.delete("v1")
    assert os.listdir(pool._layout.volumes) == []
