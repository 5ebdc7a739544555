"""When a process that was killed has ended altogether."""

from __future__ import annotations

import os
import subprocess

from hostler.host.pidfd import Identity, ended, open_to_the_end


def test_a_descriptor_tells_the_end_of_a_zombie_too() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        who = Identity.of(child.pid)
        assert who is not None
        handle = open_to_the_end(who)
        assert handle is not None and not ended(handle, 0)
        child.kill()
        assert ended(handle, 5)  # nobody has reaped it yet
        os.close(handle)
        assert open_to_the_end(who) is None
    finally:
        child.kill()
        child.wait()
    assert open_to_the_end(who) is None


def test_another_process_of_that_pid_is_not_taken_for_it() -> None:
    me = Identity.of(os.getpid())
    assert me is not None
    assert open_to_the_end(Identity(me.pid, me.started_at - 1)) is None
