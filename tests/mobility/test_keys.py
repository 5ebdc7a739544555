"""Keys: what is taken for one, what is refused, and that none is ever shown."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from hostler.core.errors import Invalid, NotFound
from hostler.mobility.keys import Key, key_of, parse_key, read_key

SECRET = bytes(range(200, 232))
FORMS = {
    "raw": SECRET,
    "hex": SECRET.hex().encode(),
    "HEX": SECRET.hex().upper().encode() + b"\n",
    "base64": base64.b64encode(SECRET) + b"\n",
    "urlsafe": base64.urlsafe_b64encode(SECRET).rstrip(b"="),
}


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_a_key_are_one_key(tmp_path: Path, form: str) -> None:
    assert read_key(key_file(tmp_path, FORMS[form])) == Key(SECRET)
    if form != "raw":
        assert parse_key(FORMS[form].decode()).id == Key(SECRET).id


def test_a_key_shows_itself_nowhere() -> None:
    key = Key(SECRET)
    assert repr(key) == f"Key(id={key.id})"
    assert len(key.id) == 16
    assert key.id not in SECRET.hex()
    assert not hasattr(key, "__dict__")


def test_other_keys_have_other_ids_and_derive_other_secrets(key: Key, other_key: Key) -> None:
    assert key != other_key
    assert key.id != other_key.id
    derived = {k.derive(salt, purpose) for k in (key, other_key) for salt in (b"1", b"2") for purpose in (b"a", b"b")}
    assert len(derived) == 8


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has 64 hex digits, this one has 0"),
        (b"ab" * 16, "has 64 hex digits, this one has 32"),
        (b"ab" * 33, "has 64 hex digits, this one has 66"),
        (base64.b64encode(b"too short, you see"), "has 32 bytes, this one has 18"),
        (b"correct horse battery staple!", "neither hex nor base64"),
        (bytes(range(128, 128 + 31)), "31 bytes and is no text"),
        (bytes(32), "no random one"),
        (b"\xff" * 5000, "is no text"),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(Invalid, match=told) as caught:
        read_key(key_file(tmp_path, content))
    assert "openssl rand" in caught.value.hint
    if len(content) > 8:
        assert content[:8].decode("latin-1") not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path, SECRET, mode)
    with pytest.raises(Invalid, match=f"mode {mode:04o}") as caught:
        read_key(path)
    assert caught.value.hint == f"chmod 600 {path}"


def test_links_pipes_folders_and_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(key_file(tmp_path, SECRET))
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name, told in (("link", "cannot be read"), ("pipe", "no regular file"), ("folder", "no regular file")):
        with pytest.raises(Invalid, match=told):
            read_key(tmp_path / name)
    with pytest.raises(NotFound, match="no checkpoint key"):
        read_key(tmp_path / "absent")


@pytest.mark.lab
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path, SECRET)
    os.chown(path, 65534, 65534)
    with pytest.raises(Invalid, match="belongs to user 65534"):
        read_key(path)


def test_settings_name_a_key_or_its_file_or_none_but_not_both(tmp_path: Path) -> None:
    file = key_file(tmp_path, SECRET)
    assert key_of("", None) is None
    assert key_of(SECRET.hex(), None) == key_of("", file) == Key(SECRET)
    with pytest.raises(Invalid, match="a checkpoint key and a file of one"):
        key_of(SECRET.hex(), file)
    with pytest.raises(NotFound):
        key_of("", tmp_path / "none")
