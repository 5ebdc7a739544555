"""What servers answer about memory and moves, asked as the panel does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hostler.core.errors import Invalid, NotFound
from hostler.core.specs import ContainerSpec
from hostler.mobility.keys import Key, key_of, parse_key
from hostler.node.questions import answer
from tests.testing.world import Platform

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def spec_of(platform: Platform, name: str) -> dict[str, object]:
    """As its server remembers it."""
    container = platform.client.container(name)
    text = (platform.servers[str(container.node)].side.server.host.container_dir(container.id) / "spec.json").read_text()
    return ContainerSpec.model_validate_json(text).model_dump(mode="json")


def test_a_check_before_a_move_says_how_it_would_be(pair: Platform) -> None:
    pair.done(pair.create("web"))
    spec = spec_of(pair, "web")
    alpha, beta = (pair.servers[name].side.server for name in ("alpha", "beta"))
    found = answer(alpha, "checkpoint.examine", {"spec": spec})
    assert found["obstacles"] == [] and found["memory"] == answer(alpha, "container.usage", {"container": spec["id"], "drivers": spec["drivers"]})["memory"]
    fit = answer(beta, "move.fit", {"spec": spec, "facts": found["facts"]})
    assert [one["code"] for one in fit["mismatches"]] == ["image"], "it is fetched"
    assert fit["methods"][0] == "stop_copy" and fit["why"]
    back = answer(alpha, "move.fit", {"spec": spec, "facts": found["facts"]})
    assert "already_there" in [one["code"] for one in back["mismatches"]]
    assert answer(beta, "move.fit", {"spec": spec, "facts": {}})["methods"] == [], "of what does not run"
    told = pair.client.check_migrate("web", to="beta")
    assert (told.possible, told.method, told.why) == (True, "stop_copy", fit["why"])
    pair.inside("web", "remember", "device /dev/net/tun")
    assert [one["code"] for one in answer(alpha, "checkpoint.examine", {"spec": spec})["obstacles"]] == ["device"]
    assert pair.client.container("web").state == "running"


def test_checkpoints_are_listed_shown_and_verified(platform: Platform) -> None:
    platform.done(platform.create("web"))
    checkpoint = str(platform.done(platform.client.checkpoint("web")).request["checkpoint"])
    server = platform.server.side.server
    (entry,) = answer(server, "checkpoint.list", {})["checkpoints"]
    assert (entry["id"], entry["name"], entry["reason"], entry["encrypted"]) == (checkpoint, "web", "", False)
    shown = answer(server, "checkpoint.inspect", {"checkpoint": checkpoint})
    assert shown["id"] == checkpoint and shown["container"]["name"] == "web" and shown["parts"] and len(shown["digest"]) == 64
    assert answer(server, "checkpoint.verify", {"checkpoint": checkpoint})["digest"] == shown["digest"]
    file = server.host.state_dir / "checkpoints" / f"{checkpoint}.checkpoint"
    whole = file.read_bytes()
    at = whole.index(b'"kind":"state"') if b'"kind":"state"' in whole[1000:] else len(whole) // 2
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(Invalid, match="damaged"):
        answer(server, "checkpoint.verify", {"checkpoint": checkpoint})
    file.write_bytes(whole[:-40])
    (entry,) = answer(server, "checkpoint.list", {})["checkpoints"]
    assert "damaged" in entry["reason"]
    with pytest.raises(NotFound):
        answer(server, "checkpoint.inspect", {"checkpoint": "n0th1ng1"})


def test_with_a_key_checkpoints_are_encrypted_and_only_that_key_opens_them(pair: Platform) -> None:
    pair.done(pair.create("web"))
    pair.inside("web", "remember", "the milk")
    alpha, beta = (pair.servers[name].side.server for name in ("alpha", "beta"))
    key, other = parse_key("0123456789abcdef" * 4), parse_key("fedcba9876543210" * 4)
    alpha.key = lambda: key
    pair.done(pair.client.suspend("web"))
    (entry,) = answer(alpha, "checkpoint.list", {})["checkpoints"]
    assert entry["encrypted"]
    file = alpha.host.state_dir / "checkpoints" / f"{entry['id']}.checkpoint"
    assert b"the milk" not in file.read_bytes() and b'"serve"' not in file.read_bytes(), "neither memory nor the process is to be read"
    assert answer(alpha, "checkpoint.verify", {"checkpoint": entry["id"]})["parts"]
    keys: list[Callable[[], Key | None]] = [lambda: None, lambda: other]
    for wrong in keys:
        alpha.key = wrong
        failed = pair.failed(pair.client.resume("web"))
        assert failed.error is not None and f"encrypted with key {key.id}" in failed.error.message
        assert pair.client.container("web").state == "suspended"
    alpha.key = lambda: key
    failed = pair.failed(pair.client.migrate("web", to="beta"))
    assert failed.error is not None and pair.client.container("web").node == "alpha"
    assert answer(beta, "checkpoint.list", {})["checkpoints"] == [], "a server without the key does not keep it"
    beta.key = lambda: key
    pair.done(pair.client.migrate("web", to="beta"))
    pair.done(pair.client.resume("web"))
    assert pair.inside("web", "recall") == "the milk\n"


def test_a_key_that_cannot_be_read_keeps_a_checkpoint_from_being_taken(platform: Platform, tmp_path: Path) -> None:
    platform.done(platform.create("web"))
    platform.server.side.server.key = lambda: key_of("", tmp_path / "none")
    failed = platform.failed(platform.client.suspend("web"))
    assert failed.error is not None and "there is no checkpoint key" in failed.error.message and failed.error.hint
    assert platform.client.container("web").state == "running"
    assert answer(platform.server.side.server, "checkpoint.list", {})["checkpoints"] == []
