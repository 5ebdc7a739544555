"""Memory and files on their way, without root: every verb, the journal and the wire are real, the drivers keep plain files."""

from __future__ import annotations

import pytest

from hostler.core.api import OperationOut
from hostler.core.errors import HostlerError
from hostler.testing.fakes.net import FakeNet
from hostler.testing.fakes.storage import FakeStorage
from tests.testing.world import FakeServer, Platform

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def storage(server: FakeServer) -> FakeStorage:
    """A server's volumes."""
    found = server.side.drivers.storage("fake")
    assert isinstance(found, FakeStorage)
    return found


def runs(platform: Platform, name: str, node: str) -> None:
    """Exactly one copy runs, there, its network open, and nothing of it is anywhere else."""
    container = platform.client.container(name)
    assert (container.state, container.node) == ("running", node)
    states = {server.name: server.side.drivers.ns("fake").inspect(container.id).state for server in platform.servers.values()}
    assert {server for server, state in states.items() if state not in ("absent", "exited")} == {node}
    assert states[node] == "running"
    net = platform.servers[node].side.drivers.net("fake")
    assert isinstance(net, FakeNet) and net.links_of(container.id)
    for server in platform.servers.values():
        if server.name != node:
            assert [item for item in server.inventory() if item.owner == container.id] == []


def warm(platform: Platform) -> str:
    """A container that remembers something and has written something; its id."""
    platform.done(platform.create("web"))
    platform.inside("web", "remember", "the milk")
    container = platform.client.container("web").id
    storage(platform.servers["alpha"]).put(container, "srv/data", b"on disk")
    return container


def moved(platform: Platform, to: str) -> OperationOut:
    """After a move that must succeed."""
    done = platform.done(platform.client.migrate("web", to=to))
    runs(platform, "web", to)
    return done


def test_suspend_and_resume_keep_memory_and_give_room_back(platform: Platform) -> None:
    container = warm(platform)
    promised = platform.client.node("alpha").memory_promised
    platform.done(platform.client.suspend("web"))
    assert platform.client.container("web").state == "suspended"
    assert platform.client.node("alpha").memory_promised < promised
    assert platform.server.side.drivers.limits("fake").processes(container) == []
    platform.done(platform.client.resume("web"))
    runs(platform, "web", "alpha")
    assert platform.inside("web", "recall") == "the milk\n"
    assert list(platform.client.checkpoints()) == [] and platform.client.node("alpha").memory_promised == promised
    platform.done(platform.client.delete("web"))
    assert platform.server.inventory() == []


def test_back_in_time_with_files_and_a_clone_from_then(platform: Platform) -> None:
    container = warm(platform)
    made = platform.done(platform.client.checkpoint("web", label="first"))
    checkpoint = str(made.request["checkpoint"])
    runs(platform, "web", "alpha")
    platform.inside("web", "remember", "the bread")
    storage(platform.server).put(container, "srv/data", b"changed")
    platform.done(platform.client.clone("web", checkpoint, "web2"))
    assert (platform.inside("web2", "recall"), platform.inside("web", "recall")) == ("the milk\n", "the bread\n")
    twin = platform.client.container("web2")
    assert twin.address_v4 != platform.client.container("web").address_v4
    assert storage(platform.server).get(twin.id, "srv/data") == b"on disk"
    platform.done(platform.client.restore("web", checkpoint))
    assert platform.inside("web", "recall") == "the milk\n" and storage(platform.server).get(container, "srv/data") == b"on disk"
    platform.done(platform.client.delete_checkpoint(checkpoint))
    for name in ("web", "web2"):
        platform.done(platform.client.delete(name))
    assert platform.server.inventory() == []


def test_what_cannot_be_checkpointed_is_told_and_runs_on(platform: Platform) -> None:
    warm(platform)
    platform.inside("web", "remember", "device /dev/net/tun")
    failed = platform.failed(platform.client.suspend("web"))
    assert failed.error is not None and "/dev/net/tun" in failed.error.message and failed.error.hint
    runs(platform, "web", "alpha")


def test_there_and_back_again(pair: Platform) -> None:
    container = warm(pair)
    assert pair.client.container("web").node == "alpha"
    done = moved(pair, "beta")
    assert done.result["method"] in ("pre_copy", "post_copy", "stop_copy") and done.result["frozen_ms"]
    assert pair.inside("web", "recall") == "the milk\n"
    assert storage(pair.servers["beta"]).get(container, "srv/data") == b"on disk"
    pair.inside("web", "remember", "the bread")
    moved(pair, "alpha")
    moved(pair, "beta")
    assert pair.inside("web", "recall") == "the bread\n"
    pair.done(pair.client.delete("web"))
    assert all(server.inventory() == [] for server in pair.servers.values())


def test_a_stopped_and_a_suspended_one_move_too(pair: Platform) -> None:
    container = warm(pair)
    pair.done(pair.client.stop("web"))
    for to in ("beta", "alpha"):
        pair.done(pair.client.migrate("web", to=to))
        assert (pair.client.container("web").state, pair.client.container("web").node) == ("stopped", to)
    pair.done(pair.client.start("web"))
    assert storage(pair.servers["alpha"]).get(container, "srv/data") == b"on disk"
    pair.inside("web", "remember", "the bread")
    pair.done(pair.client.suspend("web"))
    pair.done(pair.client.migrate("web", to="beta"))
    assert pair.client.container("web").state == "suspended"
    pair.done(pair.client.resume("web", on="alpha"))
    runs(pair, "web", "alpha")
    assert pair.inside("web", "recall") == "the bread\n"
    pair.done(pair.client.delete("web"))
    assert all(server.inventory() == [] for server in pair.servers.values())


def test_what_cannot_move_live_is_restarted_only_if_allowed(pair: Platform) -> None:
    container = warm(pair)
    pair.inside("web", "remember", "device /dev/net/tun")
    failed = pair.failed(pair.client.migrate("web", to="beta"))
    assert failed.error is not None and failed.error.code == "cannot_checkpoint"
    runs(pair, "web", "alpha")
    done = pair.done(pair.client.migrate("web", to="beta", allow_restart=True))
    assert done.result["method"] == "restart"
    runs(pair, "web", "beta")
    assert storage(pair.servers["beta"]).get(container, "srv/data") == b"on disk" and pair.inside("web", "recall") == "\n"


#: Where a move passes before the hand-over, and on which server.
PASSES = (
    ("alpha", "checkpoint.dump"), ("alpha", "checkpoint.dump:done"), ("beta", "limits.create:done"), ("beta", "ns.land"), ("beta", "checkpoint.restore"),
    ("beta", "ns.furnish"), ("beta", "net.attach"), ("beta", "checkpoint.restore:done"), ("beta", "ns.adopt"),
)  # fmt: skip


def test_a_move_that_fails_anywhere_before_the_hand_over_leaves_it_where_it_was(pair: Platform) -> None:
    warm(pair)
    for where, point in PASSES:
        pair.servers[where].faults.inject(point, "HostFailure")
        failed = pair.failed(pair.client.migrate("web", to="beta"))
        assert failed.error is not None and pair.servers[where].faults.hits() >= 1, point
        pair.servers[where].faults.clear()
        runs(pair, "web", "alpha")
        assert pair.inside("web", "recall") == "the milk\n", point
    moved(pair, "beta")


def test_what_a_move_would_meet_is_told_beforehand_and_agrees_with_what_happens(pair: Platform) -> None:
    warm(pair)
    check = pair.client.check_migrate("web", to="beta")
    assert check.method == pair.done(pair.client.migrate("web", to="beta")).result["method"]
    pair.done(pair.client.migrate("web", to="alpha"))
    assert check.possible and (check.source, check.target) == ("alpha", "beta") and check.obstacles == [] and check.why
    assert not [one for one in check.mismatches if one.blocks]
    runs(pair, "web", "alpha")
    assert pair.client.check_suspend("web").possible
    pair.inside("web", "remember", "device /dev/net/tun")
    told = pair.client.check_migrate("web", to="beta")
    assert not told.possible and told.method is None and told.obstacles[0].code == "device" and told.obstacles[0].message in told.why
    failed = pair.failed(pair.client.migrate("web", to="beta"))
    assert failed.error is not None and told.obstacles[0].message in failed.error.message
    assert pair.client.check_migrate("web", to="beta", allow_restart=True).method == "restart"
    assert not pair.client.check_suspend("web").possible
    pair.done(pair.client.stop("web"))
    assert pair.client.check_migrate("web", to="beta").method == "files"


def test_a_checkpoint_is_looked_into_and_a_flipped_bit_is_told(platform: Platform) -> None:
    warm(platform)
    checkpoint = str(platform.done(platform.client.checkpoint("web")).request["checkpoint"])
    manifest = platform.client.inspect_checkpoint(checkpoint).manifest
    assert manifest["id"] == checkpoint and manifest["volume_snapshot"]
    assert platform.client.verify_checkpoint(checkpoint).intact
    (file,) = [path for path in (platform.server.side.settings.node_state / "checkpoints").iterdir() if checkpoint in path.name]
    text = bytearray(file.read_bytes())
    text[len(text) - 60] ^= 1
    file.write_bytes(text)
    with pytest.raises(HostlerError) as broken:
        platform.client.verify_checkpoint(checkpoint)
    assert broken.value.stable_code == "invalid" and broken.value.hint
    refused = platform.failed(platform.client.clone("web", checkpoint, "web2"))
    assert refused.error is not None and not refused.error.bug
    assert {container.name for container in platform.client.containers()} == {"web"}
    runs(platform, "web", "alpha")


def test_a_source_that_cannot_clean_up_is_reaped_when_it_greets(pair: Platform) -> None:
    container = warm(pair)
    pair.servers["alpha"].faults.inject("storage.delete", "HostFailure")
    done = pair.done(pair.client.migrate("web", to="beta"))
    assert [step.name for step in done.steps if step.error] == ["clean up"]
    assert [item for item in pair.servers["alpha"].inventory() if item.owner == container]
    pair.servers["alpha"].faults.clear()
    pair.fleet.greet("alpha")
    reap = next(operation for operation in pair.client.operations(container="web") if operation.kind == "reap")
    pair.done(reap)
    runs(pair, "web", "beta")
    assert pair.inside("web", "recall") == "the milk\n"


def files(server: FakeServer) -> list[str]:
    """The checkpoints' files on a server; a suspended container's images may lie beside its own."""
    folder = server.side.settings.node_state / "checkpoints"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    found = [name for name in names if name.endswith(".checkpoint")]
    assert {name.replace(".images", ".checkpoint") for name in names} == set(found), "images of nobody's"
    return found


def test_the_file_of_a_suspended_containers_memory_is_where_the_container_is_and_nowhere_else(pair: Platform) -> None:
    warm(pair)
    alpha, beta = pair.servers.values()
    pair.done(pair.client.suspend("web"))
    assert (len(files(alpha)), len(files(beta))) == (1, 0)
    beta.faults.inject("storage.receive:done", "HostFailure")
    pair.failed(pair.client.migrate("web", to="beta"))
    beta.faults.clear()
    assert (len(files(alpha)), len(files(beta))) == (1, 0)
    pair.done(pair.client.migrate("web", to="beta"))
    assert (len(files(alpha)), len(files(beta))) == (0, 1)
    alpha.faults.inject("checkpoint.restore", "HostFailure")
    pair.failed(pair.client.resume("web", on="alpha"))
    alpha.faults.clear()
    assert (pair.client.container("web").state, pair.client.container("web").node) == ("suspended", "alpha")
    for operation in pair.client.operations(container="web"):
        pair.client.wait(operation.id)
    assert (len(files(alpha)), len(files(beta))) == (1, 0)
    assert [item for item in beta.inventory() if item.kind != "image"] == []
    pair.done(pair.client.resume("web"))
    assert pair.inside("web", "recall") == "the milk\n" and files(alpha) == []


def test_a_target_that_fails_to_let_run_what_it_was_handed_keeps_it_and_brings_it_up_anew(pair: Platform) -> None:
    container = warm(pair)
    pair.servers["beta"].faults.inject("checkpoint.release", "HostFailure")
    moved(pair, "beta")  # what failed once is done by the next step
    moved(pair, "alpha")
    pair.servers["beta"].faults.clear()
    pair.servers["beta"].faults.inject("checkpoint.release", "HostFailure", nth=0)
    failed = pair.client.wait(pair.client.migrate("web", to="beta").id)
    pair.servers["beta"].faults.clear()
    assert failed.state == "failed"
    web = pair.client.container("web")
    assert (web.state, web.node) == ("error", "beta") and web.error is not None and "hostler restart web" in web.error.hint
    for operation in pair.client.operations(container="web"):
        pair.client.wait(operation.id)
    assert [item for item in pair.servers["alpha"].inventory() if item.owner == container] == [], "the source was cleaned up all the same"
    pair.done(pair.client.restart("web", 0))
    runs(pair, "web", "beta")
    assert storage(pair.servers["beta"]).get(container, "srv/data") == b"on disk"
