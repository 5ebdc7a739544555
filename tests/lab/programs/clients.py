"""Clients that talk to a program over one connection that they never make anew, and check every answer.

Each runs in a thread of its own, in the network namespace of whoever starts it. Whatever is not as it should be ends it, and fails the test.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import re
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.lab.machine import wait_until
from tests.lab.programs.image import PAGES, page_digest

#: Seconds for one answer: no container is away for that long.
PATIENCE = 20.0


class Talk(ABC):
    """A conversation: :meth:`step` again and again."""

    def __init__(self) -> None:
        self.steps = 0
        self.worst = 0.0
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._body, name=type(self).__name__)

    def __enter__(self) -> Talk:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(PATIENCE + 10)
        assert not self._thread.is_alive(), f"{self} hangs"
        if kind is None and self.failure is not None:
            raise self.failure

    def __str__(self) -> str:
        return f"{type(self).__name__} after {self.steps} steps"

    def _body(self) -> None:
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                self.step()
                self.steps += 1
                self.worst = max(self.worst, time.monotonic() - began)
            self.finish()
        except BaseException as error:  # told to the test by __exit__ and goes_on
            self.failure = error

    def goes_on(self, steps: int = 5) -> None:
        """Return when it got so many more answers; the test fails when it does not."""
        before = self.steps
        wait_until(lambda: self.failure is not None or self.steps >= before + steps, PATIENCE, f"{self} gets no more answers")
        if self.failure is not None:
            raise self.failure

    @abstractmethod
    def step(self) -> None:
        """Ask one thing and check the answer."""

    def finish(self) -> None:
        """What is checked at the end."""


@contextmanager
def talking(*talks: Talk) -> Iterator[None]:
    """All of them talk; each has got answers before the block and after it, and no failure."""
    with ExitStack() as stack:
        for talk in talks:
            stack.enter_context(talk)
        for talk in talks:
            talk.goes_on()
        yield
        for talk in talks:
            talk.goes_on()


class _Http(Talk):
    def __init__(self, address: str) -> None:
        super().__init__()
        self._connection = http.client.HTTPConnection(address, 8000, timeout=PATIENCE)
        self._connection.connect()
        self._connection.auto_open = 0  # a connection that is lost is not made anew without a word
        self._dice = random.Random(id(self))

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[http.client.HTTPResponse, bytes]:
        """One request on the one connection."""
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, (answer.status, content[:200])
        return answer, content


class Reader(_Http):
    """Of nginx: random pages, each byte of them."""

    def step(self) -> None:
        number = self._dice.randrange(PAGES)
        _, content = self.ask("GET", f"/{number}")
        assert hashlib.sha256(content).hexdigest() == page_digest(number), number


class Asker(_Http):
    """Of the threaded server: what is sent comes back, by the same thread, which has not forgotten a request."""

    _by: str | None = None

    def step(self) -> None:
        body = self._dice.randbytes(self._dice.randrange(20_000))
        answer, content = self.ask("POST", "/", body)
        assert content == body
        assert answer.headers["X-Asked"] == str(self.steps + 1)
        self._by = self._by or answer.headers["X-Thread"]
        assert answer.headers["X-Thread"] == self._by


class Counter(Talk):
    """Of Redis: a number that grows by one, whole at every step, over one connection."""

    def __init__(self, address: str, key: str = "counter") -> None:
        super().__init__()
        self._redis = redis_client(address)
        self._key = key
        self._connection: int = self._redis.client_id()

    def step(self) -> None:
        assert self._redis.incr(self._key) == self.steps + 1

    def finish(self) -> None:
        assert self._redis.client_id() == self._connection
        assert self._redis.get(self._key) == str(self.steps).encode()


class Recaller(Talk):
    """Of Redis: values that were stored before, each byte of them."""

    def __init__(self, address: str, values: int, size: int) -> None:
        super().__init__()
        self._redis = redis_client(address)
        self._values, self._size = values, size
        self._dice = random.Random(1)

    def fill(self) -> None:
        """Store them."""
        for number in range(self._values):
            self._redis.set(f"value:{number}", self._value(number))

    def step(self) -> None:
        self._check(self._dice.randrange(self._values))

    def finish(self) -> None:
        for number in range(self._values):
            self._check(number)

    def _check(self, number: int) -> None:
        assert self._redis.get(f"value:{number}") == self._value(number), number

    def _value(self, number: int) -> bytes:
        """Half random, half zeros, as memory often is."""
        return random.Random(number).randbytes(self._size // 2).ljust(self._size, b"\0")


def redis_client(address: str) -> redis.Redis:
    """A client with one connection that it does not make anew."""
    return redis.Redis(address, 8000, socket_timeout=PATIENCE, single_connection_client=True, retry=Retry(NoBackoff(), 0))


class Banker(Talk):
    """Of PostgreSQL: transfers between accounts, each noted in a ledger, one transaction each, over one connection."""

    ACCOUNTS, BALANCE = 50, 1000

    def __init__(self, address: str, number: int) -> None:
        super().__init__()
        self._link = psycopg.connect(postgres_url(address), connect_timeout=int(PATIENCE))
        self._number = number
        self._dice = random.Random(number)
        self._backend = self._link.info.backend_pid

    @classmethod
    def open_bank(cls, address: str) -> None:
        """The accounts and the ledger, as soon as the server takes questions."""
        with cls._patient(address) as link:
            link.execute("CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL)")
            link.execute("CREATE TABLE ledger (banker int, entry int, amount int, PRIMARY KEY (banker, entry))")
            link.execute("INSERT INTO account SELECT id, %s FROM generate_series(1, %s) id", (cls.BALANCE, cls.ACCOUNTS))

    @staticmethod
    def _patient(address: str) -> psycopg.Connection:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return psycopg.connect(postgres_url(address))
            except psycopg.OperationalError:  # it listens already, and is starting up
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def step(self) -> None:
        one, other = sorted(self._dice.sample(range(1, self.ACCOUNTS + 1), 2))  # in this order, so that no two wait for each other
        amount = self._dice.randint(-50, 50)
        with self._link.transaction():
            for account, change in ((one, -amount), (other, amount)):
                self._link.execute("UPDATE account SET balance = balance + %s WHERE id = %s", (change, account))
            self._link.execute("INSERT INTO ledger VALUES (%s, %s, %s)", (self._number, self.steps + 1, amount))
        assert self._one("SELECT sum(balance) FROM account") == self.ACCOUNTS * self.BALANCE
        assert self._one("SELECT max(entry) FROM ledger WHERE banker = %s", self._number) == self.steps + 1

    def finish(self) -> None:
        assert self._one("SELECT pg_backend_pid()") == self._backend
        assert self._one("SELECT count(*) FROM ledger WHERE banker = %s", self._number) == self.steps

    def _one(self, question: str, *values: int) -> Any:
        with self._link.transaction():
            row = self._link.execute(question.encode(), values).fetchone()
        assert row is not None
        return row[0]


def postgres_url(address: str) -> str:
    """Of the server in a container."""
    return f"host={address} port=8000 user=postgres dbname=postgres connect_timeout={PATIENCE:.0f}"


class Typist(Talk):
    """Of a terminal: somebody who types to a shell that remembers."""

    _MARKED = re.compile(rb"<([^<>%$\"]+)>\r\n")

    def __init__(self, address: str) -> None:
        super().__init__()
        self._link = socket.create_connection((address, 8000), timeout=PATIENCE)
        self._terminal = self._type("echo \"<$(tty)>\"")
        assert self._terminal.startswith("/dev/pts/")

    def step(self) -> None:
        assert self._type("n=$((n+1)); echo \"<$n>\"") == str(self.steps + 1)

    def finish(self) -> None:
        assert self._type("echo \"<$(tty)>\"") == self._terminal
        assert self._type("echo \"<$(stty -a | grep -o -w icanon)>\"") == "icanon"

    def _type(self, line: str) -> str:
        """What a line prints between the marks. The terminal shows what is typed as well, where the marks hold no value."""
        self._link.sendall(f"{line}\n".encode())
        seen = b""
        while (found := self._MARKED.search(seen)) is None:
            some = self._link.recv(4096)
            assert some, f"the session has ended: {seen!r}"
            seen += some
        return found[1].decode()
