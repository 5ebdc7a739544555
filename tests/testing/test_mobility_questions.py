"""What servers answer about memory and moves, asked as the panel does."""

from __future__ import annotations

import pytest

from hostler.core.errors import Invalid, NotFound
from hostler.core.specs import ContainerSpec
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
