"""Driver ``criu``: checkpoints by CRIU (https://criu.org), run directly. Which version the kernel needs: :mod:`hostler.host.criu`.

No OCI runtime takes part: a runtime's own checkpoint costs its start twice and knows neither how to hold a restored
container nor how to leave a dumped one frozen. Where the time goes, and why the options are what they are: :mod:`hostler_plugins.checkpoint.words`.

* CRIU probes the kernel at each start, 15 to 30 ms, unless it finds what it knew in /run on a tmpfs: :meth:`Criu.setup` mounts
  one, and hostler-launch covers /run with it.
* A dump leaves the container frozen by its cgroup, not by ptrace: when CRIU is killed, nothing runs that should not.
* A restore is held by CRIU's own action script (hostler-hook), which outlives the worker.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from hostler.contracts.checkpoint import (
    Checkpoint,
    CheckpointCapabilities,
    DumpReport,
    Landing,
    Obstacle,
    Renaming,
    Shape,
)
from hostler.contracts.driver import Host, Item, Lack, Probe
from hostler.core.errors import Conflict, HostFailure, HostlerError, NoRoom
from hostler.host import freezer, mounts
from hostler.host.criu import oldest, too_old
from hostler.host.pidfd import Identity
from hostler.host.process import Result, run
from hostler_plugins.checkpoint import obstacles, post_copy, reasons, words
from hostler_plugins.checkpoint.held import PATIENCE, Questions
from hostler_plugins.checkpoint.images import rename as rename_images
from hostler_plugins.checkpoint.userns import rehome

#: Seconds for a dump or a restore: gigabytes on a slow disk.
_TIMEOUT = 600
#: Seconds until a CRIU that was told to give up has.
_GIVING_UP = 10
#: Seconds for a dump to end whose caller is dead.
_FINISHING = 60
_WORK, _GRAIN, _OUTPUT = "work", 0.0003, "output"
#: CRIU sees a tmpfs there in which it keeps its notes.
_COVERED = Path("/run")
_PIPES, _PIPE_WANTED = Path("/proc/sys/fs/pipe-max-size"), 4 << 20
_UFFD = Path("/proc/sys/vm/unprivileged_userfaultfd")
_SYS_RESOURCE = 24


class Criu(Checkpoint):
    """Contract ``checkpoint`` with CRIU."""

    name: ClassVar[str] = "criu"

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._known: dict[str, str | bool] = {}
        self._cache = Path("/run") / f"hostler-{host.installation}-{host.node}-criu"

    @property
    def capabilities(self) -> CheckpointCapabilities:
        return CheckpointCapabilities(pre_copy=self._has("mem_dirty_track"), post_copy=not self._against_post_copy(), rename=True)

    @property
    def writer(self) -> str:
        return f"criu {self._version()}"

    def probe(self) -> Probe:
        if self._program() is None:
            return Probe(lacks=[Lack(what="the program criu", remedy="ops/install brings one", blocks=True)])
        version = self._version()
        kernel = os.uname().release
        if too_old(version, kernel):
            return Probe(lacks=[Lack(what=f"CRIU {version} is too old for kernel {kernel}", remedy=f"ops/install brings {oldest(kernel)} or newer", blocks=True)])
        offers, lacks = [f"CRIU {version}", "open TCP connections"], []
        for program in ("hostler-launch", "hostler-hook"):
            if not (self.host.libexec / program).exists():
                lacks.append(Lack(what=f"the program {program}", remedy=f"python -m hostler.host.native {self.host.libexec}", blocks=True))
        for place in (self.host.libexec, self.host.state_dir):
            if place.resolve().is_relative_to(_COVERED):
                lacks.append(Lack(what=f"{place} lies below {_COVERED}, where CRIU sees another folder", remedy="have it elsewhere", blocks=True))
        if self._has("mem_dirty_track"):
            offers.append("memory is copied before the freeze")
        lacks += self._against_post_copy()
        if not self._has("mem_dirty_track"):
            lacks.append(Lack(what="tracking of changed memory", remedy="a kernel with CONFIG_MEM_SOFT_DIRTY copies memory before the freeze"))
        return Probe(offers=offers, lacks=lacks)

    def _against_post_copy(self) -> list[Lack]:
        """What keeps memory from following later. The pages wait in pipes, of which CRIU makes large ones; and the container fills
        its own memory in, as an unprivileged user."""
        lacks = []
        if not self._has("uffd-noncoop"):
            lacks.append(Lack(what="userfaultfd with events", remedy="a kernel with CONFIG_USERFAULTFD lets memory follow after a move"))
        if int(_PIPES.read_text()) < _PIPE_WANTED and not _may_exceed_limits():
            lacks.append(Lack(what=f"{_PIPES} is below {_PIPE_WANTED}", remedy=f"sysctl fs.pipe-max-size={_PIPE_WANTED} lets memory follow after a move"))
        if not _UFFD.exists() or _UFFD.read_text().strip() != "1":
            lacks.append(Lack(what="userfaultfd for containers", remedy="sysctl vm.unprivileged_userfaultfd=1 lets memory follow after a move"))
        return lacks

    def inventory(self) -> list[Item]:
        return [Item(kind="mount", name=str(self._cache))] if mounts.is_mounted(self._cache) else []

    def setup(self) -> None:
        """Mount the tmpfs on which CRIU keeps what it found out about the kernel."""
        if not mounts.is_mounted(self._cache):
            self._cache.mkdir(mode=0o755, exist_ok=True)
            mounts.mount(
                "hostler", self._cache, "tmpfs", mounts.Flags.NO_SUID | mounts.Flags.NO_DEV | mounts.Flags.NO_EXEC, "mode=0755,size=1m"
            )
            self._run(["check", "--feature", "pagemap_scan"], 10)

    def teardown(self) -> None:
        mounts.unmount(self._cache)
        if self._cache.is_dir():
            self._cache.rmdir()

    # --- dump

    def examine(self, shape: Shape) -> list[Obstacle]:
        return obstacles.find(shape)

    def dump(
        self, shape: Shape, images: Path, *, parent: Path | None = None, memory: int | None = None, halt: Callable[[], None] | None = None
    ) -> DumpReport:
        if memory is not None and not self.capabilities.post_copy:
            raise self._refuse("let memory follow after the freeze")
        folder = shape.cgroups.get(freezer.FREEZER) or shape.cgroups.get("unified")
        if halt is None:
            _refuse_strangers(shape)
            return self._dump_all(shape, images, words.dump(shape.pid, images, shape.outside, folder, parent), memory, {})
        work = _work_of(images)
        work.mkdir(mode=0o700)

        def stand_still() -> None:
            halt()
            _refuse_strangers(shape)

        try:
            command = words.dump(shape.pid, images, shape.outside, folder, parent, self._hook)
            with _halting(Questions(work), stand_still):
                return self._dump_all(shape, images, command, memory, _environment(work, words.READY))
        finally:
            shutil.rmtree(work)

    def _dump_all(self, shape: Shape, images: Path, command: list[str], memory: int | None, env: dict[str, str]) -> DumpReport:
        return self._dump(shape, images, command, env) if memory is None else self._dump_lazily(shape, images, command, memory, env)

    def _dump_lazily(self, shape: Shape, images: Path, command: list[str], memory: int, env: dict[str, str]) -> DumpReport:
        began = time.monotonic()
        if not post_copy.dump(partial(self._run_beside, env), command, memory, images, shape.cgroups):
            raise _failed(images / "dump.log", f"container {shape.container} cannot be checkpointed", "cannot_checkpoint")
        size = sum(entry.stat().st_size for entry in os.scandir(images))
        return DumpReport(pages=0, bytes=size, milliseconds=round((time.monotonic() - began) * 1000, 1))

    def following(self, images: Path) -> bool:
        return post_copy.under_way(images) is not None

    def was_lost(self, images: Path) -> bool:
        return post_copy.lost_file(images).exists()

    def end_following(self, images: Path) -> None:
        if _work_of(images).is_dir():
            Questions(_work_of(images)).answer(words.READY, False)
        criu = post_copy.under_way(images)
        if criu is not None and not criu.wait(_FINISHING):
            criu.send(9)
            criu.wait(_GIVING_UP)

    def pre_dump(self, shape: Shape, images: Path, *, parent: Path | None = None) -> DumpReport:
        if not self.capabilities.pre_copy:
            raise self._refuse("copy memory before the freeze")
        return self._dump(shape, images, words.pre_dump(shape.pid, images, shape.outside, parent), {})

    def _dump(self, shape: Shape, images: Path, command: list[str], env: dict[str, str]) -> DumpReport:
        if not Identity(shape.pid, shape.started_at).alive():
            raise Conflict(f"container {shape.container} has ended", hint="start it first", code="wrong_state")
        output = images.with_name(f"{images.name}.{_OUTPUT}")
        with output.open("wb") as stats:
            result = run(self._words(command, post_copy.pid_file(images)), timeout=_TIMEOUT, check=False, stdout=stats, stderr=stats, env=env)
        if result.returncode != 0:
            raise _failed(images / "dump.log", f"container {shape.container} cannot be checkpointed", "cannot_checkpoint")
        figures = reasons.stats(output.read_text(errors="replace"))
        size = sum(entry.stat().st_size for entry in os.scandir(images))
        return DumpReport(pages=figures["pages"], skipped=figures["skipped"], bytes=size, milliseconds=round(result.seconds * 1000, 1))

    # --- restore

    def restore(
        self, landing: Landing, images: Path, furnish: Callable[[int], None], *, close_connections: bool = False, memory: int | None = None
    ) -> int:
        work = _work_of(images)
        self.abandon(images)
        work.mkdir(mode=0o700)
        questions = Questions(work)
        questions.answer(words.RESUMED, True)
        if landing.ids is not None:
            rehome(images, landing.ids)
        _show(images)
        command = words.restore(images, work, landing.root, landing.outside, self._hook, close_connections)
        if memory is not None:
            if not post_copy.begin_filling(partial(self._run_beside, {}), images, work, memory, lambda: _kill_init(questions)):
                raise _failed(work / "lazy.log", f"container {landing.container} cannot be restored", "cannot_restore")
            command.append("--lazy-pages")
        effort = _Effort(self, landing, command, questions)
        try:
            pid = effort.until(words.NAMESPACES)
            with _beside(lambda: furnish(pid)):  # CRIU makes the mounts meanwhile; sockets come later
                questions.answer(words.NAMESPACES, True)
                effort.until(words.MOUNTED)
            questions.answer(words.MOUNTED, True)
            return effort.until(words.RESTORED)
        except BaseException:
            self.abandon(images)
            raise

    def rename(self, images: Path, to: Renaming) -> None:
        rename_images(images, to)

    def held(self, images: Path) -> int | None:
        questions = Questions(_work_of(images))
        pid = questions.asked(words.RESTORED)
        waits = pid is not None and questions.answered(words.RESTORED) is None and questions.criu() is not None
        return pid if waits else None

    def was_released(self, images: Path) -> bool:
        return Questions(_work_of(images)).asked(words.RESUMED) is not None

    def release(self, images: Path) -> None:
        questions = Questions(_work_of(images))
        if questions.asked(words.RESUMED) is not None:
            return
        criu = questions.criu()
        if questions.asked(words.RESTORED) is None or criu is None:
            raise Conflict("no restored container is held here", hint="restore it again", code="not_held")
        questions.answer(words.RESTORED, True)
        if questions.until_asked(words.RESUMED, criu, time.monotonic() + _GIVING_UP) is None:
            raise _failed(questions.work / "restore.log", "the restored container could not be let run", "cannot_restore")

    def abandon(self, images: Path) -> None:
        questions = Questions(_work_of(images))
        if not questions.work.is_dir():
            return
        if questions.asked(words.RESUMED) is None:
            self._give_up(questions)
            _keep_log(questions.work / "restore.log")
        shutil.rmtree(questions.work)

    def _give_up(self, questions: Questions) -> None:
        """CRIU that is told no ends what it restored; one that does not listen is killed, and its children are killed with the
        pid namespace whose init it forked."""
        for stage in (words.NAMESPACES, words.MOUNTED, words.RESTORED):
            questions.answer(stage, False)
        criu = questions.criu()
        if criu is not None and not criu.wait(_GIVING_UP):
            criu.send(9)
            criu.wait(_GIVING_UP)
        pid = questions.asked(words.RESTORED) or questions.asked(words.NAMESPACES)
        if pid is not None and questions.answered(words.RESTORED) is not True:
            _kill_restored(pid, questions.work)

    # --- how CRIU is run

    def _run(self, command: list[str], timeout: float, env: dict[str, str] | None = None) -> Result:
        call: list[str | Path] = [self.host.libexec / "hostler-launch", "--cover", self._cache, _COVERED, "--", self._criu(), *command]
        return run(call, timeout=timeout, check=False, env=env)

    def _words(self, command: list[str], pid_file: Path) -> list[str | Path]:
        """A CRIU that goes on should this worker die: killed while its code is in the container's processes, it may take them with it."""
        return [self.host.libexec / "hostler-launch", "--cover", self._cache, _COVERED, "--outlive", pid_file, "--", self._criu(), *command]

    def _run_beside(self, env: dict[str, str], command: list[str], fds: tuple[int, ...], pid_file: Path) -> Result:
        """A CRIU that goes on should this worker die."""
        with open(os.devnull, "wb") as nothing:
            return run(self._words(command, pid_file), timeout=post_copy.TIMEOUT, check=False, stdout=nothing, stderr=nothing, pass_fds=fds, env=env)

    @property
    def _hook(self) -> Path:
        return self.host.libexec / "hostler-hook"

    def run_restore(self, landing: Landing, command: list[str], questions: Questions) -> Result:
        """The whole of CRIU's run, in the thread of :class:`_Effort`."""
        if landing.root.is_relative_to(_COVERED):
            (self._cache / landing.root.relative_to(_COVERED)).mkdir(parents=True, exist_ok=True)
        own = ["--cover", str(self._cache), str(_COVERED), "--outlive", str(questions.work / "criu.pid")]
        environment = _environment(questions.work, words.NAMESPACES, words.MOUNTED, words.RESTORED, words.RESUMED)
        with (questions.work / _OUTPUT).open("wb") as output:
            return run(
                [*landing.words, *own, "--", self._criu(), *command],
                timeout=_TIMEOUT + PATIENCE, check=False, stdout=output, stderr=output, env=environment,
            )

    def _program(self) -> Path | None:
        if self.host.criu is not None:
            return self.host.criu if self.host.criu.exists() else None
        found = shutil.which("criu")
        return Path(found) if found else None

    def _criu(self) -> Path:
        program = self._program()
        if program is None:
            raise HostFailure("there is no CRIU on this server", hint="ops/install brings one", code="program_missing")
        return program

    def _version(self) -> str:
        if "version" not in self._known:
            said = run([self._criu(), "--version"], timeout=5, check=False).text
            self._known["version"] = next((line.split()[-1] for line in said.splitlines() if line.startswith("Version:")), "0")
        return str(self._known["version"])

    def _has(self, feature: str) -> bool:
        """Whether CRIU finds a feature in this kernel (``criu check --feature``)."""
        if feature not in self._known:
            program = self._program()
            self._known[feature] = program is not None and run([program, "check", "--feature", feature], timeout=10, check=False).returncode == 0
        return bool(self._known[feature])


class _Effort:
    """A restore under way: CRIU in a thread of its own, which ends with it."""

    def __init__(self, driver: Criu, landing: Landing, command: list[str], questions: Questions) -> None:
        self._questions = questions
        self._container = landing.container
        self._ended: list[Result | HostlerError] = []
        self._deadline = time.monotonic() + _TIMEOUT
        self._thread = threading.Thread(target=self._body, args=(driver, landing, command), name=f"criu-{landing.container}", daemon=True)
        self._thread.start()

    def _body(self, driver: Criu, landing: Landing, command: list[str]) -> None:
        try:
            self._ended.append(driver.run_restore(landing, command, self._questions))
        except HostlerError as error:
            self._ended.append(error)

    def until(self, stage: str) -> int:
        """The pid that CRIU gives at a stage. Raises :class:`Conflict` when it ends instead."""
        while not self._ended and time.monotonic() < self._deadline:
            pid = self._questions.until_asked(stage, None, time.monotonic() + 0.02)
            if pid is not None:
                return pid
        if self._ended and isinstance(self._ended[0], HostlerError):
            raise self._ended[0]
        raise _failed(self._questions.work / "restore.log", f"container {self._container} cannot be restored", "cannot_restore")


def _environment(work: Path, *stages: str) -> dict[str, str]:
    """What hostler-hook is told."""
    return {"HOSTLER_HOOKS": str(work), "HOSTLER_STAGES": ",".join(stages), "HOSTLER_PATIENCE": str(PATIENCE)}


def _refuse_strangers(shape: Shape) -> None:
    for stranger in obstacles.strangers(shape):
        raise Conflict(f"container {shape.container} cannot be checkpointed: {stranger.message}", hint=stranger.remedy, code="cannot_checkpoint")


@contextlib.contextmanager
def _beside(work: Callable[[], object]) -> Iterator[None]:
    """``work`` is done in a thread of its own while the block runs; what it raises is raised at the block's end, if the block did not fail."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body, name="beside-criu", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    for failure in failures:
        raise failure


@contextlib.contextmanager
def _halting(questions: Questions, halt: Callable[[], object]) -> Iterator[None]:
    """While inside, CRIU's question at *ready* is answered: once ``halt`` has returned, CRIU goes on; when it raises, CRIU gives up, and
    that is raised."""
    failures: list[BaseException] = []
    over = threading.Event()

    def body() -> None:
        while questions.asked_at_all(words.READY) is False:
            if over.is_set():
                return
            time.sleep(_GRAIN)
        try:
            halt()
        except BaseException as error:
            failures.append(error)
        questions.answer(words.READY, not failures)

    thread = threading.Thread(target=body, name="halting", daemon=True)
    thread.start()
    try:
        yield
    except HostlerError as error:
        raise (failures[0] if failures else error) from error
    finally:
        over.set()
        thread.join()


def _may_exceed_limits() -> bool:
    """Whether this process has CAP_SYS_RESOURCE, which ``criu check`` does not tell."""
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> _SYS_RESOURCE & 1)


def _work_of(images: Path) -> Path:
    return images.with_name(f"{images.name}.{_WORK}")


def _show(images: Path) -> None:
    """CRIU reads images as the container's root, through a folder that it has open: nobody else gets past the folders above. Those of a
    pre-copy are found from there, by way of the folder around them."""
    chain = [images]
    while (link := chain[-1] / "parent").exists():
        chain.append(link.resolve())
        chain[-1].parent.chmod(0o711)
    for folder in chain:
        folder.chmod(0o755)
        for entry in os.scandir(folder):
            if entry.is_file(follow_symlinks=False):
                os.chmod(entry.path, 0o644)


def _kill_init(questions: Questions) -> None:
    """End a container whose memory did not all come."""
    pid = questions.asked(words.RESTORED) or questions.asked(words.NAMESPACES)
    init = Identity.of(pid) if pid is not None else None
    if init is not None:
        init.send(9)


def _keep_log(log: Path) -> None:
    """Put the log of a restore that failed beside the images, for a person."""
    if log.exists():
        log.replace(log.parent.with_name(log.name))


def _kill_restored(pid: int, work: Path) -> None:
    """The init that CRIU left behind, if it is still the one: it was made after the folder was."""
    init = Identity.of(pid)
    if init is None:
        return
    with contextlib.suppress(FileNotFoundError):
        if Path(f"/proc/{pid}").stat().st_ctime >= work.stat().st_ctime - 1:
            init.send(9)
            init.wait(_GIVING_UP)


def _output(file: Path) -> str:
    """What was said before there was a log: by hostler-launch, or by CRIU of its options."""
    return " ".join(file.read_text(errors="replace").split())[-300:] if file.exists() else ""


def _failed(log: Path, doing: str, code: str) -> HostlerError:
    said = reasons.reason(log.read_text(errors="replace") if log.exists() else "") or _output(log.with_name(_OUTPUT))
    meaning, remedy = reasons.explained(said)
    if "No space left" in said:
        return NoRoom(f"{doing}: {meaning}", hint=remedy)
    return Conflict(f"{doing}: {meaning}", hint=remedy, code=code)
