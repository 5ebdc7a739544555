"""A container leaves a whole installation as a file and comes back as another one, on the other server."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.core.errors import HostlerError
from hostler.mobility.reading import inspect
from tests.lab.installation import Platform
from tests.lab.machine import wait_until
from tests.lab.test_memory import counter, counting

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

#: A megabyte that no image has, in memory and on disk.
FILL = "head -c 1048576 /dev/urandom >/dev/shm/memory; head -c 1048576 /dev/urandom >/srv/file; echo name >/srv/new; ln /srv/new /srv/link; chown 33:33 /srv/file"
SUMS = "md5sum </dev/shm/memory; md5sum </srv/file; cat /srv/link; stat -c %u:%g:%h /srv/file /srv/link"


def counted(platform: Platform) -> int:
    """How far a program in the container has counted."""
    return int(platform.shell("web", "cat /dev/shm/alive"))


def test_exported_deleted_and_imported_on_the_other_server(platform: Platform, tmp_path: Path) -> None:
    web = counter(platform, "web")
    other = next(server for server in platform.servers if server != web.node)
    platform.shell("web", f"{FILL}; (n=0; while sleep 0.1; do n=$((n + 1)); echo $n >/dev/shm/next; mv /dev/shm/next /dev/shm/alive; done) >/dev/null 2>&1 &")
    with counting(str(web.address_v4)) as client:
        client.ask()
        sums = platform.shell("web", SUMS)
        checkpoint = str(platform.done(platform.client.checkpoint("web")).request["checkpoint"])
        made = platform.done(platform.client.export_checkpoint(checkpoint))
        file = tmp_path / "web.checkpoint"
        platform.client.download_checkpoint(made, file)
        client.ask()
    print(f"exported in {made.seconds:.2f} s, {file.stat().st_size} bytes, from {inspect(file).size}")
    assert counted(platform) >= 1
    platform.delete("web")

    broken = tmp_path / "broken"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    platform.failed(platform.client.import_checkpoint(broken), "invalid")
    assert list(platform.client.containers()) == []

    done = platform.done(platform.client.import_checkpoint(file, on=other))
    print(f"imported in {done.seconds:.2f} s", {step.name: step.ms for step in done.steps})
    back = platform.client.container("web")
    assert (back.state, back.node) == ("running", other) and back.id != web.id
    assert platform.shell("web", SUMS) == sums
    seen = counted(platform)
    wait_until(lambda: counted(platform) > seen, 10)  # a program that counts in its memory alone goes on
    with pytest.raises(HostlerError, match="exists already"):
        platform.client.import_checkpoint(file)
    twin = platform.done(platform.client.import_checkpoint(file, name="twin", on=other))
    assert twin.state == "done"
    shown = platform.client.container("twin")
    assert platform.shell("twin", "hostname; ip -4 addr show eth0").count(str(shown.address_v4)) == 1
    for container in (back, shown):
        with counting(str(container.address_v4)) as client:
            client.ask()
    platform.done(platform.client.migrate("web"))
    assert platform.shell("web", SUMS) == sums
    platform.done(platform.client.restart("twin"))
    assert platform.shell("twin", "cat /srv/link; tr '\\0' ' ' </proc/1/cmdline") and platform.client.container("twin").state == "running"
