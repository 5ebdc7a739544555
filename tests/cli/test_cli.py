"""The command line against a real panel on a real socket."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click
import pytest

from hostler.cli.root import COMMANDS, cli
from hostler.cli.run import run
from hostler.core.errors import HostFailure
from tests.web.fixtures import World
from tests.web.fleet import Fleet


@dataclass
class Ended:
    """What a command line did."""

    status: int
    out: str
    err: str


Shell = Callable[..., Ended]


@pytest.fixture
def shell(world: World, panel_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    """Runs command lines as alice, or as the provider."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOSTLER_URL", panel_url)

    def sh(line: str, *, provider: bool = False, more: tuple[str, ...] = ()) -> Ended:
        monkeypatch.setenv("HOSTLER_TOKEN", world.provider.token if provider else world.alice.token)
        capsys.readouterr()
        status = run(cli, [*line.split(), *more])
        said = capsys.readouterr()
        out = "".join(part for part in said.out.splitlines(keepends=True) if not re.match(r"\d{4}-\d\d-\d\d .*\[", part))  # the panel's log
        return Ended(status, out, said.err)

    return sh


def test_a_containers_life(shell: Shell, world: World, fleet: Fleet) -> None:
    made = shell("create web --image busybox --plan small -e A=b --memory 128M -- httpd -f")
    assert made.status == 0 and re.fullmatch(r"web is running on alpha at 198\.18\.1\.1 \(\d+\.\d\d s\)\n", made.out), (made.out, made.err)
    assert made.err == ""
    listed = shell("ls")
    assert re.search(r"^web +running +198\.18\.1\.1 +alpha +small +busybox +\d+ s ago$", listed.out, re.M), listed.out
    assert "\x1b" not in listed.out, "no colours but on a terminal"
    shown = shell("show web --usage")
    assert "memory 128M" in shown.out and "httpd -f" in shown.out and "A=b" in shown.out and "1M of 128M" in shown.out
    assert re.match(r"web now has cpu 0\.25, memory 64M \(", shell("resize web --memory 64M --cpu 0.25").out)
    assert shell("stop web --grace 1").out.startswith("web is stopped (")
    assert shell("start web").out.startswith("web is running on alpha")
    assert shell("restart web").out.startswith("web is running on alpha")
    operations = shell("op list --container web")
    assert len(operations.out.splitlines()) == 6 and "provision" in operations.out
    first = json.loads(shell("op list --json").out)[-1]
    steps = shell(f"op show {first['id']}")
    assert re.search(r"^place +done", steps.out, re.M) and re.search(r"^volume +alpha +done +1\.5 ms", steps.out, re.M)
    assert "resize web done" in shell("events web").out
    assert shell("delete web").out.startswith("web is deleted (")
    assert json.loads(shell("list --json").out) == []


def test_errors_have_a_hint_and_a_status(shell: Shell, world: World, fleet: Fleet) -> None:
    unknown = shell("create web --image busybox --plan huge")
    assert (unknown.status, unknown.out) == (1, "")
    assert unknown.err == "error: there is no plan huge\nhint: choose one of: small\n"
    wrong = shell("create web --image busybox")
    assert wrong.status == 2 and wrong.err == "error: Missing option '--plan'\nhint: hostler create --help\n"
    assert shell("creat").err.startswith("error: there is no command creat; did you mean create?")
    assert shell("logs").status == 2
    assert shell("create web --image busybox --plan small --cpu lots").status == 2
    assert "more than plan small allows" in shell("create web --image busybox --plan small --memory none").err
    world.server.fail["start"] = HostFailure("no such program", hint="check the image")
    failed = shell("create web --image busybox --plan small")
    assert (failed.status, failed.out, failed.err) == (1, "", "error: no such program\nhint: check the image\n")


def test_several_at_once_and_one_that_is_not_there(shell: Shell, fleet: Fleet) -> None:
    for name in ("a", "b"):
        shell(f"create {name} --image busybox --plan small")
    ended = shell("stop a nothing b")
    assert ended.status == 1 and "there is no container nothing" in ended.err
    assert [line.split(" (")[0] for line in ended.out.splitlines()] == ["a is stopped", "b is stopped"]


def test_no_wait_and_json(shell: Shell, fleet: Fleet) -> None:
    operation = shell("create web --image busybox --plan small --no-wait").out.strip()
    assert re.fullmatch(r"[0-9a-z]{10}", operation)
    assert shell(f"op follow {operation}").out.startswith("web is running on alpha at ")
    stopped = json.loads(shell("stop web --json").out)
    assert stopped[0]["kind"] == "stop" and stopped[0]["state"] == "done"


def test_cancel(shell: Shell, world: World, fleet: Fleet) -> None:
    world.server.hold.clear()
    operation = shell("create web --image busybox --plan small --no-wait").out.strip()
    waiting = shell("stop web --no-wait").out.strip()
    assert "it stops at its next step" in shell(f"op cancel {waiting}").out
    world.server.hold.set()
    assert shell(f"op follow {operation}").status == 0
    cancelled = shell(f"op follow {waiting}")
    assert cancelled.status == 1 and "cancelled" in cancelled.err


def outside(panel_url: str, token: str, *args: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
    """The command line as a process of its own."""
    env = os.environ | {"HOSTLER_URL": panel_url, "HOSTLER_TOKEN": token}
    command = [sys.executable, "-c", "from hostler.cli import main; main()", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, stdin=stdin)


def test_exec_is_its_command(shell: Shell, world: World, fleet: Fleet, panel_url: str) -> None:
    shell("create web --image busybox --plan small")
    process = outside(panel_url, world.alice.token, "exec", "web", "--user", "nobody", "--", "cat", "-n", "x", stdin=subprocess.PIPE)
    out, err = process.communicate("grüße".encode(), timeout=30)
    assert (process.returncode, out.decode(), err.decode()) == (2, "GRÜSSE", "cat -n x")
    binary = outside(panel_url, world.alice.token, "exec", "web", "--", "cat", stdin=subprocess.PIPE)
    assert b"not text" in binary.communicate(b"\xff\x00", timeout=30)[1] and binary.returncode == 1
    large = outside(panel_url, world.alice.token, "exec", "web", "--", "cat", stdin=subprocess.PIPE)
    assert b"larger than 1 MiB" in large.communicate(b"x" * ((1 << 20) + 1), timeout=30)[1]
    full = outside(panel_url, world.alice.token, "exec", "web", "--", "cat", stdin=subprocess.PIPE)
    assert full.communicate(b"x" * (1 << 20), timeout=30)[0] == b"X" * (1 << 20)


def test_ctrl_c_leaves_the_operation_running(world: World, fleet: Fleet, panel_url: str) -> None:
    world.server.hold.clear()
    process = outside(panel_url, world.alice.token, "create", "web", "--image", "busybox", "--plan", "small")
    deadline = time.monotonic() + 20
    while not (listed := world.alice.get("/v1/operations?state=running")["items"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err.decode() == f"the operation goes on; follow it: hostler op follow {listed[0]['id']}\n"
    assert world.alice.get(f"/v1/operations/{listed[0]['id']}")["state"] == "running"


def test_help_comes_at_once() -> None:
    took = [1.0]
    while min(took) >= 0.15 and len(took) < 20:  # on a busy machine not every try tells
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "from hostler.cli import main; main()", "--help"], check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.15
    code = "import sys; from hostler.cli.root import cli; from hostler.cli.run import run; run(cli, ['--help']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()[-1].split()
    assert not {"pydantic", "httpx", "rich", "flask", "sqlalchemy"} & set(loaded)


def test_every_command_is_there_and_says_what_the_list_says() -> None:
    for name, (module, attribute, text) in COMMANDS.items():
        command = getattr(import_module(f"hostler.cli.{module}"), attribute)
        assert isinstance(command, click.Command) and command.name == name and command.help and text.endswith(".")


def test_the_arrows_point_inwards() -> None:
    code = "import sys, pkgutil, importlib, hostler.cli as c\n[importlib.import_module(m.name) for m in pkgutil.iter_modules(c.__path__, 'hostler.cli.')]\nimport hostler.client.client\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not [name for name in loaded if name.startswith(("hostler.web", "hostler.store", "hostler.operations", "hostler.broker", "flask", "sqlalchemy"))]


def test_login_is_kept_for_the_owner_only(shell: Shell, world: World, panel_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refused = shell(f"login {panel_url} --token wrong")
    file = tmp_path / "config/hostler/config.toml"
    assert refused.status == 1 and "unknown or has expired" in refused.err and not file.exists()
    told = shell(f"login {panel_url}/ --token {world.alice.token}")
    assert told.status == 0 and "as alice" in told.out and world.alice.token not in told.out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.delenv("HOSTLER_URL")
    monkeypatch.delenv("HOSTLER_TOKEN")
    assert run(cli, ["list"]) == 0
    file.write_text("url = [")
    assert run(cli, ["list"]) == 1
    file.unlink()
    assert run(cli, ["list"]) == 1


def test_logs(shell: Shell, world: World, fleet: Fleet) -> None:
    shell("create web --image busybox --plan small")
    world.server.lines += ["one", "two", "three"]
    assert shell("logs web").out == "one\ntwo\nthree\n"
    assert shell("logs web --tail 1").out == "three\n"
    assert json.loads(shell("logs web --tail 1 --json").out)["text"] == "three"


def test_the_platforms_own_logs(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOSTLER_HOME", str(tmp_path))
    assert "there are no logs" in shell("logs --platform").err
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/panel.log").write_text("one\ntwo\n")
    (tmp_path / "logs/control.log").write_text("three\n")
    assert shell("logs --platform").out == "control | three\npanel   | one\npanel   | two\n"
    assert shell("logs --platform panel --tail 1").out == "two\n"
    assert shell("logs --platform nothing").err == f"error: there is no log of nothing in {tmp_path}/logs\nhint: choose one of: control, panel\n"


def test_images(shell: Shell, fleet: Fleet, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(__file__, "file")
    ended = shell(f"image import {archive} --name mine")
    assert re.match(r"image mine is ready, [\d.]+K \(", ended.out), ended.err
    assert re.search(r"^mine +ready +own ", shell("image list").out, re.M)
    assert "rootfs" in shell("image show mine").out
    assert shell("image delete mine").out.startswith("image mine is deleted")
    assert "only the provider" in shell("image build busybox").err
    assert shell("image build busybox --name made", provider=True).out.startswith("image made is ready, 5")
    (tmp_path / "folder").mkdir()
    assert "is no OCI image layout" in shell(f"image import {tmp_path}/folder --name other").err
    layout = tmp_path / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)
    for name in ("oci-layout", "index.json"):
        (layout / name).write_text("{}")
    assert shell(f"image import {layout} --name layout").out.startswith("image layout is ready, ")


def test_the_providers_commands(shell: Shell, fleet: Fleet, world: World) -> None:
    assert "plan tiny: memory 32M" in shell("plan create tiny --memory 32M", provider=True).out
    assert re.search(r"^small +cpu 0.5, memory 256M", shell("plan list").out, re.M)
    assert shell("plan delete tiny", provider=True).out == "plan tiny is deleted\n"
    assert re.search(r"^alpha +online +0 +0 of 4 ", shell("node list", provider=True).out, re.M)
    assert re.search(r"^storage +btrfs +usable", shell("node show alpha", provider=True).out, re.M)
    assert "account bob exists" in shell("account create bob", provider=True).out
    assert re.search(r"^bob .* tenant ", shell("account list", provider=True).out, re.M)
    assert shell("account set bob --cpu-weight 300", provider=True).out == "account bob has CPU weight 300\n"
    assert re.search(r"^bob .* tenant +300 ", shell("account list", provider=True).out, re.M)
    assert shell("account set bob --cpu-weight 0", provider=True).status == 2
    secret = shell("token create first --account bob --lifetime 90d", provider=True).out.strip()
    assert secret.startswith("hst_")
    listed = json.loads(shell("token list --account bob --json", provider=True).out)
    assert listed[0]["name"] == "first" and listed[0]["expires_at"] and secret not in str(listed)
    assert shell(f"token revoke {listed[0]['id']}", provider=True).status == 0
    assert shell("token create x --lifetime soon").status == 2
    shell("create web --image busybox --plan small")
    assert re.search(r"^alice +web ", shell("list --account *", provider=True).out, re.M)
    assert re.fullmatch(r"hostler \d+\.\d+\.\d+\n", shell("version").out)


def test_what_tenants_write_is_shown_and_not_obeyed(shell: Shell, fleet: Fleet) -> None:
    shell("create web --image busybox --plan small --", more=("echo", "\x1b[31mred\x1b[0m\n"))
    shown = shell("show web").out
    assert "\x1b" not in shown and "\\x1b[31mred" in shown


def test_on_a_terminal_there_is_a_bar_and_colour(world: World, fleet: Fleet, panel_url: str) -> None:
    import pty

    controller, terminal = pty.openpty()
    env = os.environ | {"HOSTLER_URL": panel_url, "HOSTLER_TOKEN": world.alice.token, "TERM": "xterm-256color"}
    world.server.hold.clear()
    command = [sys.executable, "-c", "from hostler.cli import main; main()", "create", "web", "--image", "busybox", "--plan", "small"]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=env)
    os.close(terminal)
    said = b""
    while True:
        try:
            said += os.read(controller, 4096)
        except OSError:
            break  # EIO: nobody has the terminal any more
        if b"provision web: image" in said:
            world.server.hold.set()
    os.close(controller)
    assert process.wait(20) == 0
    assert b"provision web: image" in said and b"web is running on alpha at 198.18.1.1" in said


def test_doctor_prints_nothing_but_findings() -> None:
    ended = subprocess.run([sys.executable, "-c", "from hostler.cli import main; main()", "doctor", "--json"], capture_output=True, text=True, timeout=60)
    findings = json.loads(ended.stdout)
    assert findings and {"area", "what", "status"} <= set(findings[0])
    assert ended.returncode == (1 if any(finding["status"] == "blocks" for finding in findings) else 0), ended.stderr
