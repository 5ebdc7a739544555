"""Checkpoints as files, without root: panel, servers, tickets and streams are real, the drivers keep plain files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hostler.cli.root import cli
from hostler.cli.run import run
from hostler.client.client import Client
from hostler.core.api import OperationOut
from hostler.core.errors import HostlerError
from hostler.mobility import writing
from hostler.mobility.keys import Key
from hostler.mobility.manifest import Manifest, PartKind
from hostler.mobility.reading import extract, inspect, read_manifest, verify
from hostler.node import transfers
from tests.testing.test_mobility import storage, warm
from tests.testing.world import FakeServer, Platform

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def exported(platform: Platform, folder: Path, name: str = "web") -> Path:
    """The file of a checkpoint taken now."""
    checkpoint = str(platform.done(platform.client.checkpoint(name)).request["checkpoint"])
    done = platform.done(platform.client.export_checkpoint(checkpoint))
    file = folder / f"{checkpoint}.checkpoint"
    platform.client.download_checkpoint(done, file)
    return file


def left(platform: Platform) -> list[str]:
    """What the panel and the servers still have of files on their way."""
    folders = [platform.fleet.settings.blob_dir / "transfers", *(server.side.settings.node_state / "scratch" for server in platform.servers.values())]
    return [path.name for folder in folders if folder.is_dir() for path in folder.iterdir()]


def imported(client: Client, file: Path, **wish: Any) -> OperationOut:
    """Ask for a container of a file."""
    return client.import_checkpoint(file, **wish)


def test_exported_deleted_and_imported_elsewhere(pair: Platform, tmp_path: Path) -> None:
    container = warm(pair)
    address = pair.client.container("web").address_v4
    file = exported(pair, tmp_path)
    assert left(pair) == [], "the panel's copy went with the download"
    manifest = verify(file)
    assert [part.kind for part in manifest.parts][-1] is PartKind.VOLUME and manifest.container.id == container
    pair.done(pair.client.delete("web"))
    done = pair.done(imported(pair.client, file, on="beta"))
    made = pair.client.container("web")
    assert (made.state, made.node) == ("running", "beta") and made.id != container
    assert pair.inside("web", "recall") == "the milk\n"
    assert storage(pair.servers["beta"]).get(made.id, "srv/data") == b"on disk"
    assert storage(pair.servers["beta"]).snapshots(made.id) == [] and left(pair) == []
    assert done.result["checkpoint"] == manifest.id
    pair.done(imported(pair.client, file, name="web2", on="beta"))
    assert pair.client.container("web2").address_v4 not in (made.address_v4, None) and address is not None
    pair.done(pair.client.restart("web2"))
    pair.done(pair.client.delete("web"))
    pair.done(pair.client.delete("web2"))
    assert [item for server in pair.servers.values() for item in server.inventory()] == []


def changed(file: Path, **about: Any) -> Path:
    """The same parts under a manifest that says something else."""
    folder = file.with_suffix(".parts")
    manifest = extract(file, folder)
    parts = [writing.of_file(folder / part.name, part.name, part.kind) for part in manifest.parts]
    other = file.with_suffix(".other")
    fields = {name: getattr(manifest, name) for name in Manifest.model_fields} | about
    writing.write(other, Manifest.model_validate(fields), parts)
    return other


def flipped(file: Path) -> Path:
    """One bit in the middle of the last part's data."""
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    other = file.with_suffix(".other")
    other.write_bytes(content)
    return other


def cut(file: Path) -> Path:
    """All but its last bytes."""
    other = file.with_suffix(".other")
    other.write_bytes(file.read_bytes()[:-60])
    return other


@pytest.mark.parametrize(
    ("broken", "code", "words"),
    [
        (flipped, "invalid", "damaged"),
        (cut, "invalid", "it ends inside part volume"),
        (lambda file: changed(file, cpu_features=("avx1024",)), "does_not_fit", "avx1024"),
        (lambda file: changed(file, driver_version="77"), "does_not_fit", "written by fake 77; server alpha has the older 1"),
        (lambda file: changed(file, driver="criu"), "does_not_fit", "no working checkpoint driver criu"),
        (lambda file: changed(file, kernel="99.1.0"), "does_not_fit", "the older"),
        (lambda file: changed(file, architecture="riscv64"), "does_not_fit", "riscv64"),
        (lambda file: changed(file, parent="0parent"), "does_not_fit", "continues 0parent"),
    ],
)
def test_what_is_not_whole_or_does_not_fit_leaves_nothing(platform: Platform, tmp_path: Path, broken: Any, code: str, words: str) -> None:
    warm(platform)
    file = exported(platform, tmp_path)
    platform.done(platform.client.delete("web"))
    promised = platform.client.node("alpha").memory_promised
    told = platform.failed(imported(platform.client, broken(file))).error
    assert told is not None and told.code == code and words in told.message and told.hint, told
    assert list(platform.client.containers()) == [] and platform.server.inventory() == [] and left(platform) == []
    assert platform.client.node("alpha").memory_promised == promised


def keyed(server: FakeServer, key: Key | None) -> None:
    """Its checkpoints are encrypted from now on."""
    server.side.server.key = lambda: key


def test_a_server_with_a_key_encrypts_what_it_exports(pair: Platform, tmp_path: Path) -> None:
    key = Key(bytes(range(32)))
    for server in pair.servers.values():
        keyed(server, key)
    warm(pair)
    file = exported(pair, tmp_path)
    assert b"the milk" not in file.read_bytes() and b"on disk" not in file.read_bytes()
    manifest = read_manifest(file)
    assert manifest.sealed and manifest.container.process.args == () and read_manifest(file, key).container.process.args == ("serve",)
    pair.done(pair.client.delete("web"))
    for other, words in ((Key(bytes(range(1, 33))), "the key given is"), (None, "server beta has no key")):
        keyed(pair.servers["beta"], other)
        told = pair.failed(imported(pair.client, file, on="beta")).error
        assert told is not None and told.code == "invalid" and words in told.message
    keyed(pair.servers["beta"], key)
    pair.done(imported(pair.client, file, on="beta"))
    assert pair.inside("web", "recall") == "the milk\n"
    pair.done(pair.client.restart("web"))


def test_a_server_with_a_key_takes_nothing_that_others_could_have_written(platform: Platform, tmp_path: Path) -> None:
    warm(platform)
    file = exported(platform, tmp_path)
    keyed(platform.server, Key(bytes(range(32))))
    told = platform.failed(imported(platform.client, file, name="web2")).error
    assert told is not None and told.code == "not_encrypted" and told.hint
    assert [container.name for container in platform.client.containers()] == ["web"] and left(platform) == []


def test_what_fails_in_the_middle_is_undone(platform: Platform, tmp_path: Path) -> None:
    warm(platform)
    file = exported(platform, tmp_path)
    for point in ("storage.receive", "storage.receive:done", "checkpoint.restore:done", "net.attach:done", "checkpoint.release"):
        platform.server.faults.inject(point, "HostFailure")
        before = len(platform.server.inventory())
        platform.failed(imported(platform.client, file, name="web2"))
        assert len(platform.server.inventory()) == before and left(platform) == []
        assert [container.name for container in platform.client.containers()] == ["web"]


def test_a_server_without_room_says_how_much_it_has(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warm(platform)
    file = exported(platform, tmp_path)
    volumes = storage(platform.server)
    size = volumes.settings.size
    volumes.settings = volumes.settings.model_copy(update={"size": size - volumes.free()[0] + 10})
    told = platform.failed(imported(platform.client, file, name="web2")).error
    assert told is not None and told.code == "no_room" and "the volumes of server alpha have 10" in told.message and "--on" in told.hint
    volumes.settings = volumes.settings.model_copy(update={"size": size})
    monkeypatch.setattr(transfers, "_RESERVE", 1 << 60)
    told = platform.failed(imported(platform.client, file, name="web2")).error
    assert told is not None and told.code == "disk_full" and "the server has 0" in told.message
    assert [container.name for container in platform.client.containers()] == ["web"] and left(platform) == []


def test_a_file_that_is_larger_than_the_limit_is_given_up(platform: Platform, tmp_path: Path) -> None:
    warm(platform)
    checkpoint = str(platform.done(platform.client.checkpoint("web")).request["checkpoint"])
    platform.fleet.settings.checkpoint_limit = 1000
    told = platform.failed(platform.client.export_checkpoint(checkpoint)).error
    assert told is not None and told.code == "too_large" and "HOSTLER_CHECKPOINT_LIMIT" in told.hint
    assert left(platform) == []
    assert platform.inside("web", "recall") == "the milk\n"


def test_what_a_suspended_container_has_in_mind_can_leave_too(platform: Platform, tmp_path: Path) -> None:
    warm(platform)
    platform.done(platform.client.suspend("web"))
    checkpoint = platform.client.container("web").checkpoint
    assert checkpoint is not None
    done = platform.done(platform.client.export_checkpoint(checkpoint))
    platform.client.download_checkpoint(done, tmp_path / "file")
    platform.done(imported(platform.client, tmp_path / "file", name="web2"))
    platform.done(platform.client.resume("web"))
    assert platform.inside("web", "recall") == platform.inside("web2", "recall") == "the milk\n"


def test_a_download_is_whole_or_not_there(platform: Platform, tmp_path: Path) -> None:
    warm(platform)
    checkpoint = str(platform.done(platform.client.checkpoint("web")).request["checkpoint"])
    done = platform.done(platform.client.export_checkpoint(checkpoint))
    panels = platform.fleet.settings.blob_dir / "transfers" / done.id
    whole = panels.read_bytes()
    panels.write_bytes(whole[:-1])
    with pytest.raises(HostlerError, match="not what the server wrote"):
        platform.client.download_checkpoint(done, tmp_path / "file")
    assert list(tmp_path.glob("file*")) == [] and list(tmp_path.glob(".file*")) == []
    panels.write_bytes(whole)
    platform.client.download_checkpoint(done, tmp_path / "file")
    assert inspect(tmp_path / "file").manifest.id == checkpoint
    with pytest.raises(HostlerError, match="exists already"):
        platform.client.download_checkpoint(done, tmp_path / "file")


def test_on_the_command_line(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOSTLER_URL", platform.fleet.settings.panel_url)
    monkeypatch.setenv("HOSTLER_TOKEN", platform.client.create_token("shell").secret)

    def shell(line: str) -> tuple[int, str]:
        capsys.readouterr()
        status = run(cli, line.split())
        said = capsys.readouterr()
        return status, said.out + said.err

    warm(platform)
    checkpoint = str(platform.done(platform.client.checkpoint("web")).request["checkpoint"])
    status, said = shell(f"checkpoint export {checkpoint}")
    assert status == 0 and f"checkpoint {checkpoint} of web is in {checkpoint}.checkpoint, " in said and "not encrypted" in said, said
    file = tmp_path / f"{checkpoint}.checkpoint"
    assert file.stat().st_mode & 0o777 == 0o600 and left(platform) == []
    status, said = shell(f"checkpoint export {checkpoint}")
    assert status == 1 and "exists already" in said
    status, said = shell(f"checkpoint import {file.name}")
    assert status == 1 and "a container web exists already" in said and "--name" in said
    status, said = shell(f"checkpoint import {file.name} --name web2")
    assert status == 0 and "web2 is running on alpha" in said, said
    assert platform.inside("web2", "recall") == "the milk\n"
    file.write_bytes(b"no checkpoint at all, whatever it is called")
    status, said = shell(f"checkpoint import {file.name} --name web3")
    assert status == 1 and "this is no checkpoint of Hostler" in said
