"""A server's key and certificate."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hostler.core.errors import HostFailure
from hostler.node.wire import identity


def test_made_once_and_kept(tmp_path: Path) -> None:
    first = identity.load(tmp_path / "wire", "alpha")
    again = identity.load(tmp_path / "wire", "alpha")
    assert first == again
    assert len(first.fingerprint) == 64
    assert stat.S_IMODE(os.stat(first.key).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "wire").st_mode) == 0o700
    assert sorted(os.listdir(tmp_path / "wire")) == ["cert.pem", "key.pem"]


def test_every_server_has_its_own(tmp_path: Path) -> None:
    assert identity.load(tmp_path / "a", "alpha").fingerprint != identity.load(tmp_path / "b", "alpha").fingerprint


def test_a_start_killed_in_the_middle_is_made_good(tmp_path: Path) -> None:
    identity.load(tmp_path, "alpha").certificate.unlink()
    (tmp_path / ".cert.pem.new").write_bytes(b"half")
    made = identity.load(tmp_path, "alpha")
    made.context(server=True)
    assert identity.load(tmp_path, "alpha") == made


def test_an_open_key_is_closed_again(tmp_path: Path) -> None:
    identity.load(tmp_path, "alpha").key.chmod(0o644)
    assert stat.S_IMODE(os.stat(identity.load(tmp_path, "alpha").key).st_mode) == 0o600


@pytest.mark.parametrize("name", ["key.pem", "cert.pem"])
def test_what_cannot_be_used_is_told_and_left_alone(tmp_path: Path, name: str) -> None:
    identity.load(tmp_path, "alpha")
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(HostFailure) as failure:
        identity.load(tmp_path, "alpha")
    assert failure.value.stable_code == "wire_identity"
    assert failure.value.hint
    assert (tmp_path / name).read_bytes() == b"damaged"


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    identity.load(tmp_path / "a", "alpha")
    identity.load(tmp_path / "b", "beta")
    os.replace(tmp_path / "b/key.pem", tmp_path / "a/key.pem")
    with pytest.raises(HostFailure):
        identity.load(tmp_path / "a", "alpha")
