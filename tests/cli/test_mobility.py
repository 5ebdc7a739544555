"""The commands about memory, against a panel and servers that say what real ones would."""

from __future__ import annotations

import json
import re

from tests.cli.test_cli import Shell, shell
from tests.web.fixtures import World
from tests.web.fleet import Server

__all__ = ["shell"]


def test_suspend_and_resume(shell: Shell, world: World, beta: Server) -> None:
    shell("create web --image busybox --plan small")
    check = shell("suspend web --check")
    assert check.status == 0 and re.search(r"^possible +yes$", check.out, re.M) and re.search(r"^gives back +40M$", check.out, re.M)
    ended = shell("suspend web")
    assert re.fullmatch(r"web is suspended, 40M of memory given back, 12M on disk \(\d+\.\d\d s\)\n", ended.out), ended.err
    shown = shell("show web").out
    assert re.search(r"^state +suspended$", shown, re.M) and re.search(r"^memory +on disk: checkpoint \w+$", shown, re.M)
    refused = shell("stop web")
    assert refused.status == 1 and "--discard-memory" in refused.err
    assert shell("resume web").out.startswith("web is running on alpha at 198.18.1.1 (")
    shell("suspend web")
    assert shell("resume web --on beta").out.startswith("web is running on beta at 198.18.1.1 (")
    shell("suspend web")
    assert shell("stop web --discard-memory").out.startswith("web is stopped, its memory was given up (")
    assert shell("checkpoint ls --json").out == "[]\n"


def test_migrate_says_what_it_would_be_and_what_it_was(shell: Shell, world: World, beta: Server) -> None:
    shell("create web --image busybox --plan small")
    little = shell("migrate web --to beta --check")
    assert re.search(r"^method +stop_copy: ", little.out, re.M) and "40M of memory is copied in the freeze as fast" in little.out
    assert re.search(r"^why +it was asked for$", shell("migrate web --to beta --check --method post_copy").out, re.M)
    impossible = shell("migrate web --to beta --check --method pre_copy")
    assert impossible.status == 1 and re.search(r"^why +these servers have no method in common$", impossible.out, re.M)
    world.server.memory = 200 << 20
    check = shell("migrate web --to beta --check")
    assert check.status == 0, check.err
    for line in ("possible +yes", "from +alpha", "to +beta", "method +post_copy: live, memory follows after the freeze", "sends +about 205M", r"frozen for +about \d+ ms"):
        assert re.search(f"^{line}$", check.out, re.M), (line, check.out)
    assert shell("show web --json").out.count("alpha") == 1, "nothing was changed"
    moved = shell("migrate web --to beta")
    assert moved.status == 0, moved.err
    assert re.match(r"web is running on beta at 198\.18\.1\.1 \(", moved.out)
    assert moved.out.splitlines()[1:] == [
        "  post_copy: live, memory follows after the freeze", "  because memory can follow", "  frozen for 83 ms, 52M sent", "  volume 300 ms, dump 21 ms",
    ]  # fmt: skip
    assert shell("migrate web").out.startswith("web is running on alpha"), "the best of the others is taken"
    assert "is on alpha already" in shell("migrate web --to alpha").err
    assert "there is no server gamma" in shell("migrate web --to gamma").err


def test_what_stands_in_the_way_is_told_with_its_remedy(shell: Shell, world: World, beta: Server) -> None:
    shell("create web --image busybox --plan small")
    world.server.obstacles = [{"code": "io_uring", "message": "process 12 (nginx) uses io_uring", "remedy": "turn aio off"}]
    beta.mismatches = [{"message": "server beta lacks avx512f", "remedy": "choose another server", "blocks": True, "only_memory": True}]
    check = shell("migrate web --to beta --check")
    assert check.status == 1 and "cannot move to beta" in check.err
    assert re.search(r"^obstacle +process 12 \(nginx\) uses io_uring \(turn aio off\)$", check.out, re.M)
    assert re.search(r"^mismatch +server beta lacks avx512f \(choose another server\)$", check.out, re.M)
    assert re.search(r"^method +none$", check.out, re.M)
    forced = shell("migrate web --to beta --check --allow-restart")
    assert forced.status == 0 and "restart: stopped, copied, started" in forced.out
    beta.mismatches = [{"message": "server beta has no btrfs", "remedy": "mend it", "blocks": True}]
    assert shell("migrate web --to beta --check --allow-restart").status == 1
    suspend = shell("suspend web --check")
    assert suspend.status == 1 and "turn aio off" in suspend.out
    assert json.loads(shell("suspend web --check --json").out)["possible"] is False


def test_checkpoints(shell: Shell, world: World, beta: Server) -> None:
    shell("create web --image busybox --plan small")
    made = shell("checkpoint create web --name before-upgrade")
    found = re.fullmatch(r"checkpoint (\w{10}) of web: 12M on disk, frozen for 46 ms \(\d+\.\d\d s\)\n", made.out)
    assert found, (made.out, made.err)
    checkpoint = found[1]
    assert re.search(rf"^{checkpoint} +web +before-upgrade +manual +ready +alpha +40M +12M ", shell("checkpoint ls web").out, re.M)
    assert re.search(r"^files +snapshot s1$", shell(f"checkpoint show {checkpoint}").out, re.M)
    assert json.loads(shell(f"checkpoint inspect {checkpoint}").out)["id"] == checkpoint
    assert shell(f"checkpoint verify {checkpoint}").out == f"checkpoint {checkpoint} is whole\n"
    assert shell(f"restore web --from {checkpoint}").out.startswith("web is running on alpha")
    assert shell(f"clone web --from {checkpoint} --name web2").out.startswith("web2 is running on alpha at 198.18.1.2 (")
    now = shell("clone web --name web3")
    assert now.out.startswith("web3 is running on alpha at 198.18.1.3 (") and "it stays until" in now.err
    refused = shell("migrate web --to beta")
    assert refused.status == 1 and "has 2 checkpoints on alpha, which cannot follow it" in refused.err
    assert shell(f"checkpoint rm {checkpoint}").out.startswith(f"checkpoint {checkpoint} of web is removed (")
    assert shell("migrate web --to beta --drop-checkpoints").out.startswith("web is running on beta")
    assert "there is no checkpoint" in shell(f"checkpoint show {checkpoint}").err
