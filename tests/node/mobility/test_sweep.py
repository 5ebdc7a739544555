"""What a worker removes when it starts: what nobody can need any more, and nothing else."""

from __future__ import annotations

from pathlib import Path

from hostler.mobility.drafts import file_draft, folder_draft
from hostler.node.drivers import Drivers
from hostler.node.mobility.sweep import sweep


def test_drafts_of_dead_writers_go_and_what_an_operation_settles_stays(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    revivals = tmp_path / "revivals"
    for folder in ("dump-one/images", "move-two/images", "move-two/pre-0", "three/images", "three/images.work"):
        (revivals / folder).mkdir(parents=True)
        (revivals / folder / "core-1.img").touch()
    (revivals / "three/whole").touch()
    (revivals / "move-two/carrier.pid").write_text("1")
    removed = sweep(tmp_path, Drivers())
    assert {str(path.relative_to(revivals)) for path in removed} == {"dump-one", "move-two/images", "move-two/pre-0"}
    assert not (revivals / "dump-one").exists()
    assert sorted(path.name for path in (revivals / "move-two").iterdir()) == ["carrier.pid"]
    assert (revivals / "three/images/core-1.img").exists() and (revivals / "three/whole").exists() and (revivals / "three/images.work").exists()
    assert sweep(tmp_path, Drivers()) == []


def test_nothing_there_is_a_success(tmp_path: Path) -> None:
    assert sweep(tmp_path, Drivers()) == []


def test_drafts_that_somebody_writes_stay(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "revivals/three").mkdir(parents=True)
    with file_draft(tmp_path / "checkpoints/one.hstl"), folder_draft(tmp_path / "revivals/three/images"):
        assert sweep(tmp_path, Drivers()) == []
