"""What the drivers of OCI runtimes share: all but how the runtime is called.

The runtime makes the namespaces and confines the processes; that is forked for. All else is read from files and done with pidfds,
because it is tenfold faster and works on what the runtime knows nothing of (a restored container):

* *start* opens the FIFO ``exec.fifo`` at which the runtime's paused init waits;
* *exec* enters the container's cgroups and namespaces with ``hostler-enter``, found by its init alone;
* *delete* kills init by pidfd, with which the kernel ends the whole pid namespace, and removes the runtime's state
  folder. The cgroups are not touched: they belong to the limits driver;
* *inspect* compares pid and start time, and asks the freezer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from hostler.contracts.checkpoint import Landing, Shape
from hostler.contracts.driver import Host, Item, Lack, Probe
from hostler.contracts.limits import Cgroup
from hostler.contracts.ns import Ns, NsCapabilities, Sandbox
from hostler.contracts.storage import IdmapMount, OverlayMount, RootPlan
from hostler.core.errors import Conflict, HostFailure, NotFound
from hostler.core.specs import ContainerSpec, ExecResult, ExecSpec, IdRange
from hostler.host import cgroups, freezer, guest, lxcfs, mountinfo, seccomp
from hostler.host.failures import explained
from hostler.host.pidfd import Identity, ended
from hostler.host.process import run
from hostler_plugins.ns import bundle, failures, landing
from hostler_plugins.ns.command import Command

#: Seconds that the runtime may take to make a container on a very busy server.
CREATE_TIMEOUT = 60
#: Seconds in which killed processes must be gone.
_KILL_TIMEOUT = 10
#: Seconds that the other side may take: a container's init from its start to where it takes signals, which is a millisecond; the
#: watch from its nudge to where it reads.
_LISTEN_TIMEOUT = 1
#: Seconds in which every process must have come to a halt.
_FREEZE_TIMEOUT = 10
_NOFILE = 65_536
#: How often a container is made anew while the runtime of a killed worker is still dying, and seconds in between.
_TRIES, _PAUSE = 5, 0.1
#: What newer crun (seen: 1.21) keeps among its containers: compiled seccomp filters, for all of them.
_CACHE = ".cache"


class Oci(Ns):
    """Contract ``ns`` with an OCI runtime. A driver says the program's name and how it is called."""

    program: ClassVar[str]

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        #: Where the root is mounted: in a private mount namespace only, but runtimes enter this path on the host too.
        self.scratch = Path("/run") / f"hostler-{host.installation}-{host.node}"

    @property
    def capabilities(self) -> NsCapabilities:
        return NsCapabilities(user_namespace=True, seccomp=True, exec=True, freeze=True, checkpoint=True)

    def probe(self) -> Probe:
        lacks = []
        found = shutil.which(self.program)
        if found is None:
            lacks.append(Lack(what=f"the program {self.program}", remedy=f"apt-get install {self.program}", blocks=True))
        for program in ("hostler-init", "hostler-launch", "hostler-enter"):
            if not (self.host.libexec / program).exists():
                remedy = f"python -m hostler.host.native {self.host.libexec}"
                lacks.append(Lack(what=f"the program {program}", remedy=remedy, blocks=True))
        for kind in ("pid", "net", "ipc", "uts", "mnt", "user", "cgroup"):
            if not Path(f"/proc/self/ns/{kind}").exists():
                lacks.append(Lack(what=f"{kind} namespaces", remedy="use a kernel that has them", blocks=True))
        if Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0":
            lacks.append(Lack(what="user namespaces", remedy="sysctl user.max_user_namespaces=10000", blocks=True))
        if "Seccomp_filters" not in Path("/proc/self/status").read_text():
            lacks.append(Lack(what="seccomp filters", remedy="use a kernel with CONFIG_SECCOMP_FILTER", blocks=True))
        if not seccomp.available():
            lacks.append(Lack(what="the library libseccomp.so.2", remedy="apt-get install libseccomp2", blocks=True))
        offers = [run([found, "--version"], timeout=5).text.splitlines()[0]] if found else []
        return Probe(offers=offers, lacks=lacks)

    def inventory(self) -> list[Item]:
        found = [
            Item(kind=kind, name=entry.name, owner=entry.name)
            for kind, folder in (("sandbox", self._bundles), ("runtime state", self._state))
            if folder.is_dir()
            for entry in sorted(folder.iterdir())
            if entry.name != _CACHE
        ]
        folders = self.host.state_dir / "containers"
        for name in sorted(entry.name for entry in folders.iterdir()) if folders.is_dir() else ():
            if self._is_foreign(name):
                continue
            found.append(Item(kind="folder", name=name, owner=name))
            record = guest.read_init(self.host, name)
            if record and record.identity.alive():
                found.append(Item(kind="process", name=str(record.pid), owner=name))
        return found

    def setup(self) -> None:
        for folder in (self._bundles, self._state):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.scratch / "root").mkdir(mode=0o755, parents=True, exist_ok=True)

    def teardown(self) -> None:
        for folder in (self._state / _CACHE, self._filters):
            if folder.is_dir():
                shutil.rmtree(folder)
        for folder in (self._bundles, self._state, self.folder / landing.NOTHING, self.folder, self.scratch / "root", self.scratch):
            if folder.is_dir():
                folder.rmdir()

    # -- life

    def create(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup) -> Sandbox:
        seen = self.inspect(spec.id)
        if seen.state in ("created", "running", "frozen"):
            return seen
        if self._is_foreign(spec.id):
            raise Conflict(f"container {spec.id} is held by another ns driver", hint="delete it there first", code="wrong_driver")
        self.setup()
        for attempt in range(_TRIES):
            self._destroy(spec.id)
            try:
                with explained(f"create container {spec.id}"):
                    return self._create(spec, root, cgroup)
            except BaseException as error:
                self._destroy(spec.id)
                if not failures.is_in_the_way(error) or attempt == _TRIES - 1:
                    raise
            time.sleep(_PAUSE)
        raise AssertionError("unreachable")

    def start(self, container: str) -> None:
        record = self._record(container)
        if record is None or not record.identity.alive():
            raise NotFound(f"container {container} has no sandbox to start", hint="create it first")
        if guest.nudge(self.host, container):
            _until_somebody_reads(guest.guest_dir(self.host, container) / guest.STATUS)
        self._open_gate(self._gate(container), record.identity)
        guest.nudge(self.host, container)

    def inspect(self, container: str) -> Sandbox:
        record = self._record(container)
        if record is None:
            return Sandbox(state="absent")
        if record.identity.alive():
            state = "created" if self._gate(container).exists() else "frozen" if freezer.frozen(record.cgroups) else "running"
            return Sandbox.model_validate({"state": state, "pid": record.pid, "started_at": record.started_at})
        gone = guest.read_exit(self.host, container, record.identity)
        return Sandbox(state="exited", exit_code=gone.status if gone else None)

    def signal(self, container: str, signal: int) -> None:
        record = self._record(container)
        if record is not None:
            if not self._gate(container).exists():
                _until_it_listens(record.identity, guest.guest_dir(self.host, container) / guest.OUT)
            record.identity.send(signal)

    def wait(self, container: str, timeout: float) -> Sandbox:
        record = self._record(container)
        if record is not None:
            record.identity.wait(timeout)
        return self.inspect(container)

    def exec(self, container: str, command: ExecSpec) -> ExecResult:
        record = self._record(container)
        state = self.inspect(container).state
        if state == "frozen":
            raise Conflict(f"container {container} is frozen: nothing in it can run", hint="thaw it first", code="wrong_state")
        if record is None or state != "running":
            raise Conflict(f"container {container} is not running", hint="start it first", code="wrong_state")
        config = json.loads((self._bundles / container / "config.json").read_text())
        return Command(
            program=self.host.libexec / "hostler-enter",
            container=container,
            init=record.identity,
            cgroups={key: Path(folder) for key, folder in record.cgroups.items()},
            seccomp=seccomp.filter_file(config["linux"]["seccomp"], self._filters),
        ).run(bundle.exec_process(config["process"], command), command)

    def freeze(self, container: str) -> None:
        state = self.inspect(container).state
        if state == "frozen":
            return
        record = self._record(container)
        if record is None or state != "running":
            raise Conflict(f"container {container} is not running", hint="only a running one can be frozen", code="wrong_state")
        lxcfs.withdraw(record.identity)  # before, since it takes milliseconds, of which a move must not cost any
        freezer.freeze(record.cgroups, _FREEZE_TIMEOUT)
        lxcfs.withdraw(record.identity)  # what the watch laid over just then

    def thaw(self, container: str) -> None:
        record = self._record(container)
        if record is not None:
            freezer.thaw(record.cgroups)
            lxcfs.offer(self.host, record.identity)

    def delete(self, container: str) -> None:
        if self._is_foreign(container):
            return
        guest.expect_exit(self.host, container)
        self._destroy(container)
        guest.nudge(self.host, container)

    def forget(self, container: str) -> None:
        if self._is_foreign(container):
            return
        self.delete(container)
        _remove_shared(self.host.container_dir(container))
        guest.nudge(self.host, container)

    # -- checkpoints

    def shape(self, container: str) -> Shape:
        record = self._record(container)
        if record is None or self.inspect(container).state not in ("running", "frozen"):
            raise Conflict(f"container {container} is not running", hint="start it first", code="wrong_state")
        mounts = mountinfo.read(Path(f"/proc/{record.pid}/mountinfo"))
        return Shape(
            container=container, pid=record.pid, started_at=record.started_at, cgroups=record.cgroups,
            outside=landing.outside(mounts, guest.guest_dir(self.host, container)) | landing.plain(Path(f"/proc/{record.pid}/root")),
        )

    def land(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup) -> Landing:
        state = self.inspect(spec.id).state
        if state in ("created", "running", "frozen"):
            raise Conflict(f"container {spec.id} is {state} on this server already", hint="stop it first", code="wrong_state")
        self.setup()
        self._destroy(spec.id)
        try:
            return self._land(spec, root, cgroup)
        except BaseException:
            self._destroy(spec.id)
            raise

    def furnish(self, container: str, pid: int) -> None:
        landing.furnish(pid, IdRange(base=self._plan(container)["linux"]["uidMappings"][0]["hostID"]))

    def adopt(self, container: str, pid: int) -> Sandbox:
        init = Identity.of(pid)
        if init is None:
            raise Conflict(f"the restored init of container {container} has ended", hint="restore it again", code="wrong_state")
        cgroup = Cgroup.model_validate_json((self._bundles / container / "cgroup.json").read_text())
        record = guest.InitRecord(pid=init.pid, started_at=init.started_at, cgroups=cgroup.parents, driver=self.name)
        guest.write_init(self.host, container, record)
        lxcfs.offer(self.host, init)
        guest.nudge(self.host, container)
        return self.inspect(container)

    # -- what a runtime's driver says

    @abstractmethod
    def _create_words(self, cgroup: Cgroup, root: list[str]) -> list[str]:
        """The command line up to the runtime's global options; ``root`` are the options of hostler-launch that make the root."""

    @abstractmethod
    def _open_gate(self, gate: Path, init: Identity) -> None:
        """Let a created init run; it runs already when ``gate`` is gone. Raises :class:`HostFailure` when it ends instead."""

    # -- how

    @property
    def _state(self) -> Path:
        return self.folder / "state"

    @property
    def _bundles(self) -> Path:
        return self.folder / "bundles"

    @property
    def _filters(self) -> Path:
        """Compiled seccomp filters, by digest, for commands in containers."""
        return self.folder / "filters"

    @property
    def _launch(self) -> str:
        return str(self.host.libexec / "hostler-launch")

    def _gate(self, container: str) -> Path:
        return self._state / container / "exec.fifo"

    def _record(self, container: str) -> guest.InitRecord | None:
        """The init, if it is one of this driver's."""
        record = guest.read_init(self.host, container)
        return record if record is not None and record.driver == self.name else None

    def _is_foreign(self, container: str) -> bool:
        record = guest.read_init(self.host, container)
        return record is not None and record.driver != self.name

    def _create(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup) -> Sandbox:
        folder = self._bundles / spec.id
        folder.mkdir(mode=0o700)
        guest.write_whole(folder / "cgroup.json", cgroup.model_dump_json())
        inside = guest.make_guest(self.host, spec.id, spec.ids.base, bundle.guest_files(spec))
        guest.unexpect_exit(self.host, spec.id)
        (folder / "config.json").write_text(json.dumps(self._config(spec, inside, cgroup)))
        self._run_create(spec, root, cgroup, folder)
        init = Identity.of(int((folder / "pid").read_text()))
        if init is None:
            raise HostFailure("the container's init ended before it was started", hint=failures.last_words(folder))
        landing.hold_devices(cgroup.parents)
        lxcfs.offer(self.host, init)
        record = guest.InitRecord(pid=init.pid, started_at=init.started_at, cgroups=cgroup.parents, driver=self.name)
        guest.write_init(self.host, spec.id, record)
        guest.nudge(self.host, spec.id)
        return Sandbox(state="created", pid=init.pid, started_at=init.started_at)

    def _land(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup) -> Landing:
        folder = self._bundles / spec.id
        folder.mkdir(mode=0o700)
        guest.write_whole(folder / "cgroup.json", cgroup.model_dump_json())
        inside = guest.make_guest(self.host, spec.id, spec.ids.base, bundle.guest_files(spec))
        guest.unexpect_exit(self.host, spec.id)
        init = self.host.libexec / "hostler-init"
        (folder / "config.json").write_text(json.dumps(self._config(spec, inside, cgroup)))
        nothing = self.folder / landing.NOTHING
        nothing.mkdir(mode=0o555, exist_ok=True)
        landing.hold_devices(cgroup.parents)
        return Landing(
            container=spec.id,
            words=landing.launch_words(
                [self._launch, *self._root_words(spec, root), *landing.plain_words(bundle.shm_size(spec))], {"guest": inside, init.name: init, landing.NOTHING: nothing}, cgroup.parents
            ),
            root=self.scratch / "root",
            outside=landing.bindings(spec, self.scratch, init),
            ids=spec.ids,
        )

    def _root_words(self, spec: ContainerSpec, root: RootPlan) -> list[str]:
        """The options of hostler-launch that make the root."""
        return ["--scratch", str(self.scratch), "--ids", str(spec.ids.base), str(spec.ids.count), *_mounts(root)]

    def _config(self, spec: ContainerSpec, inside: Path, cgroup: Cgroup) -> dict[str, Any]:
        return bundle.config(
            spec,
            root=self.scratch / "root",
            guest=inside,
            init=self.host.libexec / "hostler-init",
            cgroups_path=cgroup.path,
            nofile=min(_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        )

    def _plan(self, container: str) -> dict[str, Any]:
        """The container's runtime configuration. Raises :class:`NotFound`."""
        try:
            plan: dict[str, Any] = json.loads((self._bundles / container / "config.json").read_text())
        except FileNotFoundError:
            raise NotFound(f"container {container} has no sandbox", hint="create it first") from None
        return plan

    def _run_create(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup, folder: Path) -> None:
        words = [*self._create_words(cgroup, self._root_words(spec, root)), "--log", str(folder / "log"), "--log-format", "json"]
        words += ["create", "--bundle", str(folder), "--pid-file", str(folder / "pid"), spec.id]
        # The paused init holds these two until it runs, so they are no pipes that somebody must wait for.
        # Nor are they the host's /dev/null: crun makes the container's root the owner of what it is given, who could then close it to everybody.
        killed = failures.killed_for_memory(cgroup)
        with (folder / "stderr").open("wb") as said, (folder / "nothing").open("w+b") as nothing:
            result = run(words, timeout=CREATE_TIMEOUT, check=False, stdin=nothing, stdout=nothing, stderr=said)
        if result.returncode != 0:
            raise failures.of_creation(spec, failures.words(folder), killed=failures.killed_for_memory(cgroup) > killed)

    def _destroy(self, container: str) -> None:
        """Kill and remove all that there may be of a sandbox, in whatever state a crash has left it."""
        record = self._record(container)
        if record is not None:
            _kill(record)
        left = self._bundles / container / "cgroup.json"
        if left.exists():
            parents = Cgroup.model_validate_json(left.read_text()).parents
            for path in sorted(parents.values(), key=lambda folder: folder != parents.get(freezer.FREEZER)):  # what is frozen cannot die
                cgroups.kill_all(Path(path), _KILL_TIMEOUT, stop_forks=False)
            freezer.thaw(parents)  # version 2 kills what is frozen, and stays frozen for whom comes next
        for folder in (self._state / container, self._bundles / container):
            if folder.exists():
                shutil.rmtree(folder)
        guest.remove_guest(self.host, container)
        guest.remove_init(self.host, container)


def _remove_shared(folder: Path) -> None:
    """Remove a folder in which the watch may just be writing its last word."""
    for _ in range(20):
        if not folder.exists():
            return
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
            time.sleep(0.005)
    raise HostFailure(f"cannot remove {folder}: something goes on writing to it", hint="see with lsof what it is")


def _kill(record: guest.InitRecord) -> None:
    with record.identity.opened() as handle:
        if handle is None:
            return
        record.identity.send(9)
        freezer.thaw(record.cgroups)  # version 1 keeps even what is killed; now nothing of it runs again
        if not ended(handle, _KILL_TIMEOUT):
            raise HostFailure(
                f"process {record.pid} survives SIGKILL for {_KILL_TIMEOUT} s", code="process_stuck",
                hint="it waits in the kernel, most likely for a disk: see /proc/<pid>/stack on the server",
            )


def _until_it_listens(init: Identity, out: Path) -> None:
    """Wait until hostler-init takes signals, which it does before it opens its output; at most a second.

    The kernel throws a signal away that comes to the first process of a pid namespace before it has a handler for it: a stop
    right after a start would wait for all of its grace.
    """
    deadline = time.monotonic() + _LISTEN_TIMEOUT
    while init.alive() and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):  # nothing is open yet, or it has just ended
            if os.path.samestat(os.stat(f"/proc/{init.pid}/fd/1"), out.stat()):
                return
        time.sleep(0.0005)


def _until_somebody_reads(status: Path) -> None:
    """Wait until the node's watch has opened a container's FIFOs, the last of which is ``status``; at most a second.

    What a container writes goes with its last process unless somebody else has the FIFO open: of one that ends at once, the
    words and the status would be lost.
    """
    deadline = time.monotonic() + _LISTEN_TIMEOUT
    while time.monotonic() < deadline:
        try:
            os.close(os.open(status, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            return
        except FileNotFoundError:
            return  # taken down meanwhile
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads yet
                raise
        time.sleep(0.0005)


def _mounts(root: RootPlan) -> list[str]:
    words: list[str] = []
    for mount in root.mounts:
        match mount:
            case IdmapMount():
                words += ["--idmap", str(mount.source), mount.target]
            case OverlayMount():
                words += ["--overlay", ":".join(mount.lower), mount.upper, mount.work, mount.target]
    return words
