"""Where the panel is and with which token: the environment, else the file that ``hostler login`` wrote."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from hostler.core.errors import Invalid, Unauthenticated


@dataclass(frozen=True)
class Login:
    """A panel and a token for it."""

    url: str
    token: str


def path() -> Path:
    """The file, as the XDG base directory specification places it."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "hostler" / "config.toml"


def load() -> Login:
    """The login in force. Raises :class:`Unauthenticated` when there is none."""
    kept = _kept()
    url = os.environ.get("HOSTLER_URL") or kept.get("url", "")
    token = os.environ.get("HOSTLER_TOKEN") or kept.get("token", "")
    if not url or not token:
        raise Unauthenticated("you are not logged in", hint="hostler login URL --token TOKEN, or set HOSTLER_URL and HOSTLER_TOKEN")
    return Login(url, token)


def _kept() -> dict[str, str]:
    file = path()
    try:
        found = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Invalid(f"{file} cannot be read: {error}", hint="log in again: hostler login URL --token TOKEN") from error
    return {key: value for key, value in found.items() if isinstance(value, str)}


def save(login: Login) -> Path:
    """Write the file, readable by its owner only, in one step."""
    file = path()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(f"url = {_toml(login.url)}\ntoken = {_toml(login.token)}\n")
    temporary.replace(file)
    return file


def _toml(text: str) -> str:
    """A basic string of TOML."""
    return '"' + "".join(f"\\u{ord(char):04x}" if char in '"\\' or ord(char) < 32 or ord(char) == 127 else char for char in text) + '"'
