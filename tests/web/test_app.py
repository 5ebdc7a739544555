"""The application factory: nothing is opened before a request, and a forked process opens its own."""

from __future__ import annotations

import os
from pathlib import Path

from hostler.core.names import new_id
from hostler.settings import ControlSettings
from hostler.web import create_app
from hostler.web.panel import Panel


def test_loading_the_app_opens_and_writes_nothing(tmp_path: Path) -> None:
    settings = ControlSettings(installation=new_id(8), home=tmp_path / "home", redis_socket=tmp_path / "none.sock")
    made = create_app(settings)
    assert not settings.home.exists()
    panel = made.extensions["hostler"]
    assert isinstance(panel, Panel) and panel._store is None and panel._broker is None


def test_a_forked_process_opens_its_own(tmp_path: Path) -> None:
    panel = Panel(ControlSettings(home=tmp_path, redis_socket=tmp_path / "none.sock"))
    before = panel.store
    assert panel.store is before
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"own" if panel.store is not before else b"shared")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"own"
    os.close(reader)
    os.close(writer)
    panel.close()
