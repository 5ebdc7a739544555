"""Runs calls of a driver in processes that can be killed in the middle: forked from one that has everything imported.

    python -m hostler.testing.zygote     requests and answers are pickles, on standard input and output

Only the kit itself writes to it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from hostler.host import netns
from hostler.testing.subjects import Recipe

#: A verb's name and its arguments.
Call = tuple[str, tuple[Any, ...]]


def perform(recipe: Recipe, calls: Sequence[Call]) -> None:
    """Make calls on a new driver object, where the driver works."""
    with netns.entered(recipe.netns) if recipe.netns else contextlib.nullcontext():
        driver = recipe.make()
        for verb, args in calls:
            getattr(driver, verb)(*args)


class Zygote:
    """The process that forks, as the kit sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "hostler.testing.zygote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def start(self, recipe: Recipe, calls: Sequence[Call]) -> int:
        """The pid of a process that makes the calls."""
        return int(self._ask(("run", recipe, list(calls))))

    def end(self, pid: int) -> str:
        """Wait for the process; empty when its calls succeeded, else what went wrong."""
        return str(self._ask(("wait", pid)))

    def killed(self, recipe: Recipe, calls: Sequence[Call], seconds: float) -> None:
        """Make the calls, and kill the process after so many seconds at the latest."""
        pid = self.start(recipe, calls)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        self.end(pid)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, request: tuple[Any, ...]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump(request, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


@functools.cache
def shared() -> Zygote:
    """The one of this process, ended with it."""
    made = Zygote()
    atexit.register(made.close)
    return made


def _child(recipe: Recipe, calls: Sequence[Call], words: str) -> None:
    """The forked process: it leaves by ``os._exit`` alone."""
    status = 1
    try:
        random.seed()
        perform(recipe, calls)
        status = 0
    except BaseException:  # told to whoever waits
        with open(words, "w") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(status)


def _serve(source: IO[bytes], out: IO[bytes]) -> None:
    words: dict[int, str] = {}
    while True:
        try:
            request = pickle.load(source)
        except EOFError:
            return
        if request[0] == "run":
            file = f"/tmp/hostler-zygote-{os.getpid()}-{len(words)}"
            recipe: Recipe = request[1]
            pid = os.fork()
            if pid == 0:
                _child(recipe, request[2], file)
            words[pid] = file
            answer: Any = pid
        else:
            _, status = os.waitpid(request[1], 0)
            answer = "" if status == 0 else f"wait status {status}"
            said = Path(words[request[1]])
            if said.exists():
                answer += "\n" + said.read_text()
                said.unlink()
        pickle.dump(answer, out)
        out.flush()


if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a driver that prints must not spoil the answers
    _serve(sys.stdin.buffer, replies)
