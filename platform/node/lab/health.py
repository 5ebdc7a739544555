"""Whether a lab is healthy: Redis answers, the panel answers, every server is online. Asked from outside, as a user would."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import httpx
import redis

from hostler.core.errors import Timeout, Unavailable
from hostler.node.lab.layout import Lab
from hostler.node.lab.supervisor import Supervisor

#: How a check answers: None when it is well, else what is wrong, in words.
Check = Callable[[], str | None]


def broker_answers(lab: Lab) -> str | None:
    """Redis answers PING on its socket."""
    try:
        with redis.Redis(unix_socket_path=str(lab.redis_socket), socket_timeout=2) as connection:
            connection.ping()
    except redis.RedisError as error:
        return f"Redis does not answer: {error}"
    return None


def panel_answers(lab: Lab) -> str | None:
    """The panel answers ``GET /v1/health`` with 200."""
    try:
        answer = httpx.get(f"{lab.panel_url}/v1/health", timeout=2)
    except httpx.HTTPError as error:
        return f"the panel does not answer: {error}"
    return None if answer.status_code == 200 else f"the panel answers {answer.status_code}"


def server_online(lab: Lab, supervisor: Supervisor, server: str, token: str) -> str | None:
    """The panel says that the server is online, and was heard since its worker was started."""
    try:
        answer = httpx.get(f"{lab.panel_url}/v1/nodes/{server}", headers={"Authorization": f"Bearer {token}"}, timeout=2)
    except httpx.HTTPError as error:
        return f"the panel does not answer: {error}"
    if answer.status_code == 401:
        return None  # the first token was revoked, as it should be one day: the console tells
    if answer.status_code != 200:
        return f"the panel answers {answer.status_code} when asked for server {server}"
    told = answer.json()
    if told["state"] != "online":
        return f"server {server} is {told['state']}"
    (worker,) = [state for state in supervisor.states() if state.name == f"node-{server}"]
    heard = datetime.fromisoformat(told["seen_at"]).timestamp()
    return None if worker.pid and heard >= worker.started else f"server {server} was not heard since its worker was started"


def wait(lab: Lab, supervisor: Supervisor, name: str, check: Check, seconds: float) -> None:
    """Wait for a check to be well. Raises :class:`Unavailable` as soon as a program was given up, :class:`Timeout` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while (problem := check()) is not None:
        gave_up = [state for state in supervisor.states() if state.state == "FATAL"]
        if gave_up:
            raise Unavailable(f"{name}: {gave_up[0].name} does not stay up", hint=_last_words(lab, gave_up[0].name))
        if time.monotonic() > deadline:
            restless = [state.name for state in supervisor.states() if state.state != "RUNNING"]
            raise Timeout(f"{name}: {problem}, after {seconds:g} s", hint=_last_words(lab, restless[0]) if restless else f"the logs are in {lab.logs}")
        time.sleep(0.1)


def _last_words(lab: Lab, program: str) -> str:
    file = lab.log(program)
    lines = file.read_text(errors="replace").splitlines()[-8:] if file.is_file() else []
    return "\n".join([f"the end of {file}:", *(f"  | {line[:300]}" for line in lines)])
