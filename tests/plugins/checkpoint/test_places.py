"""Where CRIU finds what it needs: programs it can see, and every folder of a chain readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler_plugins.checkpoint import criu
from hostler_plugins.checkpoint.criu import Criu


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Says that it is CRIU, and that it finds every feature."""
    file = tmp_path / "criu"
    file.write_text("#!/bin/sh\necho Version: 4.2.1\n")
    file.chmod(0o755)
    return file


def test_a_server_whose_folders_are_hidden_from_criu_is_told_so(tmp_path: Path, program: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/run/hostler-libexec")
    for libexec, state, hidden in ((tmp_path, tmp_path, []), (link, tmp_path, [link]), (tmp_path, Path("/run/state"), [Path("/run/state")])):
        lacks = Criu(Host(installation="t1", node="alpha", state_dir=state, libexec=libexec, criu=program)).probe().lacks
        assert [lack.what.split()[0] for lack in lacks if "lies below /run" in lack.what] == [str(one) for one in hidden]
        assert all(lack.blocks for lack in lacks if "lies below /run" in lack.what)


def test_a_whole_chain_is_shown_to_the_containers_root_and_nothing_else(tmp_path: Path) -> None:
    around = tmp_path / "c1"
    around.mkdir(mode=0o700)
    for name, before in (("pre-0", None), ("pre-1", "pre-0"), ("images", "pre-1"), ("other", None)):
        (around / name).mkdir(mode=0o700)
        (around / name / "pages-1.img").touch(mode=0o600)
        if before is not None:
            (around / name / "parent").symlink_to(f"../{before}")
    tmp_path.chmod(0o700)
    criu._show(around / "images")
    modes = {str(file.relative_to(tmp_path)): file.stat().st_mode & 0o777 for file in (tmp_path, around, *around.iterdir(), *around.glob("*/*.img"))}
    shown = {f"c1/{name}": 0o755 for name in ("images", "pre-0", "pre-1")} | {f"c1/{name}/pages-1.img": 0o644 for name in ("images", "pre-0", "pre-1")}
    assert modes == shown | {".": 0o700, "c1": 0o711, "c1/other": 0o700, "c1/other/pages-1.img": 0o600}
