"""The shell scripts: clean by shellcheck, and CI runs what a developer runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def scripts() -> list[str]:
    return subprocess.run([ROOT / "ops/lib/scripts"], capture_output=True, text=True, check=True).stdout.split()


def bash(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "CHECKOUT": str(cwd), **environment}
    return subprocess.run(["bash", "-euo", "pipefail", "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=30)


def library(name: str) -> str:
    return f". {ROOT}/ops/lib/say.sh; . {ROOT}/ops/lib/packages.sh; . {ROOT}/ops/lib/{name}.sh"


def test_all_scripts_are_seen_by_the_linter() -> None:
    assert {".ci/run", "ops/install", "ops/up", "ops/down", "ops/test", "ops/lib/say.sh"} <= set(scripts())


def test_shellcheck() -> None:
    program = shutil.which("shellcheck")
    assert program, "shellcheck is not installed: ops/install --dev"
    told = subprocess.run([program, "-x", *scripts()], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize("name", [".ci/run", "ops/install", "ops/up", "ops/down", "ops/test"])
def test_commands_are_executable(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)


def test_ci_runs_what_a_developer_runs(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / "ops").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "ops/test").write_text('#!/bin/sh\npwd; echo "test $*"; exit 7\n')
    (tmp_path / "ops/test").chmod(0o755)
    told = subprocess.run([tmp_path / ".ci/run", "unit"], cwd="/", capture_output=True, text=True)
    assert told.returncode == 7
    assert told.stdout.split("\n")[:2] == [str(tmp_path), "test unit"]


def test_a_step_that_fails_says_so_and_keeps_its_status(tmp_path: Path) -> None:
    told = bash(f". {ROOT}/ops/lib/say.sh; bad() {{ echo why; return 3; }}; s=0; step thing bad || s=$?; echo $s; step fine true", tmp_path)
    assert told.returncode == 0
    assert "thing: failed" in told.stdout and "| why" in told.stdout
    assert "\n3\n" in told.stdout and "fine" in told.stdout


@pytest.mark.parametrize(("version", "enough"), [("4.2", True), ("4.2.1", True), ("10.0", True), ("3.17.1", False), ("", False)])
def test_which_criu_is_new_enough_for_the_kernel_that_runs(tmp_path: Path, version: str, enough: bool) -> None:
    told = bash(f"{library('criu')}; new_enough '{version}' && echo yes || echo no", tmp_path)
    assert told.stdout == ("yes\n" if enough else "no\n")


def test_the_mirror_is_the_one_that_apt_is_configured_with(tmp_path: Path) -> None:
    lines = [
        "Packages|Other|Other|main|http://other.example/",
        "Packages|Debian|Debian-Security|main|http://security.example/",
        "Translations|Debian|Debian|main|http://wrong.example/",
        "Packages|Debian|Debian|contrib|http://wrong.example/",
        "Packages|Debian|Debian|main|http://right.example/debian/",
    ]
    (tmp_path / "apt-get").write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    (tmp_path / "apt-get").chmod(0o755)
    told = bash(f"{library('criu')}; debian_mirror", tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert told.stdout == "http://right.example/debian/\n"


def test_a_criu_that_cannot_be_had_stops_nothing_and_is_not_tried_again_at_once(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in {"apt-get": "exit 1", "apt-cache": "exit 0", "criu": "exit 1", "mmdebstrap": f"echo tried >> {tmp_path}/tries; exit 1"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    (tools / "apt-get").write_text('#!/bin/sh\necho "Packages|Debian|Debian|main|http://mirror.example/"\n')
    for _ in range(2):
        told = bash(f"{library('criu')}; id() {{ echo 0; }}; ensure_criu; echo on", tmp_path, PATH=f"{tools}:{os.environ['PATH']}")
        assert told.returncode == 0 and told.stdout.endswith("on\n"), told
    assert (tmp_path / "tries").read_text() == "tried\n"
    assert not (tmp_path / ".tools/criu.new").exists()


def test_packages_that_are_missing_are_found(tmp_path: Path) -> None:
    told = bash(f". {ROOT}/ops/lib/say.sh; . {ROOT}/ops/lib/packages.sh; missing_packages bash no-such-package-anywhere coreutils", tmp_path)
    assert told.stdout == "no-such-package-anywhere\n"


@pytest.mark.parametrize(("there", "told_systemd"), [("", "disable --now redis-server.service\n"), ("redis", ""), ("no systemd", "")])
def test_a_service_that_came_with_a_package_stays_off_and_one_that_was_there_goes_on(tmp_path: Path, there: str, told_systemd: str) -> None:
    tools, program, told = tmp_path / "bin", tmp_path / "redis-server", tmp_path / "told"
    tools.mkdir()
    told.touch()
    for name, body in {"apt-get": f'[ "$3" = update ] || touch {program}', "systemctl": f'echo "$*" >> {told}'}.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    if there == "redis":
        program.touch()
    running = tmp_path / "systemd"
    if there != "no systemd":
        running.mkdir()
    services = f"declare -A IDLE_SERVICES=([redis-server]={program} [postgresql]={tmp_path}/never)"
    code = f". {ROOT}/ops/lib/say.sh; . {ROOT}/ops/lib/packages.sh; {services}; install_packages redis-server"
    done = bash(code, tmp_path, PATH=f"{tools}:{os.environ['PATH']}", SYSTEMD_RUNNING=str(running))
    assert done.returncode == 0, done
    assert told.read_text() == told_systemd


def test_python_packages_are_asked_for_only_where_none_can_be_used(tmp_path: Path) -> None:
    asked = f"{library('python')}; find_python() {{ [ -e {tmp_path}/there ]; }}; python_packages"
    assert bash(asked, tmp_path).stdout == "python3\npython3-venv\n"
    (tmp_path / "there").touch()
    assert bash(asked, tmp_path).stdout == ""


def test_an_old_python_is_not_usable(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # what an interpreter's own version check would say
    old.chmod(0o755)
    told = bash(f"{library('python')}; usable_python {old} && echo yes || echo no; usable_python {tmp_path}/none && echo yes || echo no", tmp_path)
    assert told.stdout == "no\nno\n"
