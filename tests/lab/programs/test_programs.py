"""Real programs move between servers again and again, under load: no answer is wrong, none is missing, no connection breaks."""

from __future__ import annotations

import pytest

from tests.lab.installation import Platform
from tests.lab.programs.clients import Asker, Banker, Counter, Reader, Recaller, Typist
from tests.lab.programs.image import POSTGRES, PYTHON
from tests.lab.programs.journeys import REDIS, launch, there_and_back

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

_POSTGRES = (
    "initdb -D /srv/postgres -U postgres -A trust -N --no-instructions --locale C >/dev/null && echo 'host all all 0.0.0.0/0 trust' >> /srv/postgres/pg_hba.conf && "
    "exec postgres -D /srv/postgres -p 8000 -c listen_addresses=0.0.0.0 -c unix_socket_directories=/srv/postgres"
)


def test_a_web_server_with_threads(python: str, platform: Platform) -> None:
    web = launch(platform, python, "web", PYTHON, "/srv/threads.py")
    there_and_back(platform, "web", *(Asker(web.address_v4 or "") for _ in range(4)))


def test_redis_with_200_mb(redis: str, platform: Platform) -> None:
    cache = launch(platform, redis, "cache", *REDIS)
    address = cache.address_v4 or ""
    recaller = Recaller(address, 2000, 100_000)
    recaller.fill()
    assert platform.client.usage("cache").memory > 200_000_000
    there_and_back(platform, "cache", Counter(address), recaller)


@pytest.mark.programs
def test_nginx(nginx: str, platform: Platform) -> None:
    web = launch(platform, nginx, "web", "nginx", "-c", "/srv/nginx.conf")
    there_and_back(platform, "web", *(Reader(web.address_v4 or "") for _ in range(4)))


@pytest.mark.programs
def test_postgresql(postgres: str, platform: Platform) -> None:
    ledger = launch(platform, postgres, "ledger", "sh", "-c", _POSTGRES, user=str(POSTGRES))
    address = ledger.address_v4 or ""
    Banker.open_bank(address)
    there_and_back(platform, "ledger", *(Banker(address, number) for number in range(4)))


@pytest.mark.programs
def test_a_shell_on_a_terminal(python: str, platform: Platform) -> None:
    host = launch(platform, python, "host", PYTHON, "/srv/terminal.py")
    there_and_back(platform, "host", *(Typist(host.address_v4 or "") for _ in range(3)))
