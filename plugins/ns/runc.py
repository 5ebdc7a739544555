"""Driver ``runc``: containers by the OCI runtime runc, seen and ended without it.

runc makes the namespaces and confines the processes; that is forked for. All else is read from files and done with pidfds,
because it is tenfold faster and works on what runc knows nothing of (a restored container):

* *start* opens runc's ``exec.fifo``, which is what ``runc start`` does (10 ms for its process);
* *delete* kills init by pidfd, with which the kernel ends the whole pid namespace, and removes runc's state
  folder. ``runc delete`` sleeps in steps of 100 ms, and would remove the cgroups, which belong to the limits driver;
* *inspect* compares pid and start time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import shutil
import time
from pathlib import Path
from typing import ClassVar

from hostler.contracts.driver import Host, Item, Lack, Probe
from hostler.contracts.limits import Cgroup
from hostler.contracts.ns import Ns, NsCapabilities, Sandbox
from hostler.contracts.storage import IdmapMount, OverlayMount, RootPlan
from hostler.core.errors import Conflict, HostFailure, Invalid, NotFound, Timeout
from hostler.core.specs import ContainerSpec, ExecResult, ExecSpec
from hostler.core.units import format_size
from hostler.host import cgroups, guest
from hostler.host.pidfd import Identity, ended
from hostler.host.process import run
from hostler_plugins.ns import bundle
from hostler_plugins.ns.command import Command

#: Seconds that the runtime may take to make a container on a very busy server.
_CREATE_TIMEOUT = 60
#: Seconds in which killed processes must be gone.
_KILL_TIMEOUT = 10
#: Seconds that a container's init may take from its start to where it takes signals, which is a millisecond.
_LISTEN_TIMEOUT = 1
_NOFILE = 65_536


class Runc(Ns):
    """Contract ``ns`` with runc (1.1 and newer)."""

    name: ClassVar[str] = "runc"

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        #: Where the root is mounted: in a private mount namespace only, but runc enters this path on the host too.
        self.scratch = Path("/run") / f"hostler-{host.installation}-{host.node}"

    @property
    def capabilities(self) -> NsCapabilities:
        return NsCapabilities(user_namespace=True, seccomp=True, exec=True)

    def probe(self) -> Probe:
        lacks = []
        runc = shutil.which("runc")
        if runc is None:
            lacks.append(Lack(what="the program runc", remedy="apt-get install runc", blocks=True))
        for program in ("hostler-init", "hostler-launch"):
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
        offers = [run([runc, "--version"], timeout=5).text.splitlines()[0]] if runc else []
        return Probe(offers=offers, lacks=lacks)

    def inventory(self) -> list[Item]:
        found = [
            Item(kind=kind, name=entry.name, owner=entry.name)
            for kind, folder in (
                ("sandbox", self._bundles),
                ("runtime state", self._state),
                ("folder", self.host.state_dir / "containers"),
            )
            if folder.is_dir()
            for entry in sorted(folder.iterdir())
        ]
        for item in [item for item in found if item.kind == "folder"]:
            record = guest.read_init(self.host, item.name)
            if record and record.identity.alive():
                found.append(Item(kind="process", name=str(record.pid), owner=item.name))
        return found

    def setup(self) -> None:
        for folder in (self._bundles, self._state):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.scratch / "root").mkdir(mode=0o755, parents=True, exist_ok=True)

    def teardown(self) -> None:
        for folder in (self._bundles, self._state, self.folder, self.scratch / "root", self.scratch):
            if folder.is_dir():
                folder.rmdir()

    # -- life

    def create(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup) -> Sandbox:
        seen = self.inspect(spec.id)
        if seen.state in ("created", "running"):
            return seen
        self.setup()
        self._destroy(spec.id)
        try:
            return self._create(spec, root, cgroup)
        except BaseException:
            self._destroy(spec.id)
            raise

    def start(self, container: str) -> None:
        record = guest.read_init(self.host, container)
        if record is None or not record.identity.alive():
            raise NotFound(f"container {container} has no sandbox to start", hint="create it first")
        _open_gate(self._gate(container), record.identity)
        guest.nudge(self.host, container)

    def inspect(self, container: str) -> Sandbox:
        record = guest.read_init(self.host, container)
        if record is None:
            return Sandbox(state="absent")
        if record.identity.alive():
            state = "created" if self._gate(container).exists() else "running"
            return Sandbox.model_validate({"state": state, "pid": record.pid, "started_at": record.started_at})
        gone = guest.read_exit(self.host, container, record.identity)
        return Sandbox(state="exited", exit_code=gone.status if gone else None)

    def signal(self, container: str, signal: int) -> None:
        record = guest.read_init(self.host, container)
        if record is not None:
            if not self._gate(container).exists():
                _until_it_listens(record.identity, guest.guest_dir(self.host, container) / guest.OUT)
            record.identity.send(signal)

    def wait(self, container: str, timeout: float) -> Sandbox:
        record = guest.read_init(self.host, container)
        if record is not None:
            record.identity.wait(timeout)
        return self.inspect(container)

    def exec(self, container: str, command: ExecSpec) -> ExecResult:
        cgroups.expect_moves()
        record = guest.read_init(self.host, container)
        if record is None or self.inspect(container).state != "running":
            raise Conflict(f"container {container} is not running", hint="start it first", code="wrong_state")
        template = json.loads((self._bundles / container / "config.json").read_text())["process"]
        return Command(
            runtime=("runc", "--root", str(self._state)),
            container=container,
            folder=self._bundles / container,
            cgroups={key: Path(folder) for key, folder in record.cgroups.items()},
        ).run(bundle.exec_process(template, command), command)

    def delete(self, container: str) -> None:
        guest.expect_exit(self.host, container)
        self._destroy(container)
        guest.nudge(self.host, container)

    def forget(self, container: str) -> None:
        self.delete(container)
        _remove_shared(self.host.container_dir(container))
        guest.nudge(self.host, container)

    # -- how

    @property
    def _state(self) -> Path:
        return self.folder / "state"

    @property
    def _bundles(self) -> Path:
        return self.folder / "bundles"

    def _gate(self, container: str) -> Path:
        return self._state / container / "exec.fifo"

    def _create(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup) -> Sandbox:
        folder = self._bundles / spec.id
        folder.mkdir(mode=0o700)
        (folder / "cgroup.json").write_text(cgroup.model_dump_json())
        inside = guest.make_guest(self.host, spec.id, spec.ids.base, bundle.guest_files(spec))
        guest.unexpect_exit(self.host, spec.id)
        config = bundle.config(
            spec,
            root=self.scratch / "root",
            guest=inside,
            init=self.host.libexec / "hostler-init",
            cgroups_path=cgroup.path,
            nofile=min(_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        )
        (folder / "config.json").write_text(json.dumps(config))
        self._launch(spec, root, cgroup, folder)
        init = Identity.of(int((folder / "pid").read_text()))
        if init is None:
            raise HostFailure("the container's init ended before it was started", hint=_last_words(folder))
        _close_devices(cgroup)
        record = guest.InitRecord(pid=init.pid, started_at=init.started_at, cgroups=cgroup.parents)
        guest.write_init(self.host, spec.id, record)
        guest.nudge(self.host, spec.id)
        return Sandbox(state="created", pid=init.pid, started_at=init.started_at)

    def _launch(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup, folder: Path) -> None:
        launch = [str(self.host.libexec / "hostler-launch"), "--scratch", str(self.scratch)]
        launch += ["--ids", str(spec.ids.base), str(spec.ids.count), *_joins(cgroup), *_mounts(root)]
        runtime = ["runc", "--root", str(self._state), "--log", str(folder / "log")]
        create = ["create", "--bundle", str(folder), "--pid-file", str(folder / "pid"), spec.id]
        # The paused init holds these two until it runs, so they are no pipes that somebody must wait for.
        with (folder / "stderr").open("wb") as stderr, open(os.devnull, "wb") as stdout:
            result = run(
                [*launch, "--", *runtime, *create], timeout=_CREATE_TIMEOUT, check=False, stdout=stdout, stderr=stderr
            )
        if result.returncode != 0:
            raise _creation_failure(spec, cgroup, _last_words(folder))

    def _destroy(self, container: str) -> None:
        """Kill and remove all that there may be of a sandbox, in whatever state a crash has left it."""
        record = guest.read_init(self.host, container)
        if record is not None:
            _kill(record.identity)
        left = self._bundles / container / "cgroup.json"
        if left.exists():
            for path in Cgroup.model_validate_json(left.read_text()).parents.values():
                cgroups.kill_all(Path(path), _KILL_TIMEOUT, stop_forks=False)
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


def _kill(process: Identity) -> None:
    with process.opened() as handle:
        if handle is None:
            return
        process.send(9)
        if not ended(handle, _KILL_TIMEOUT):
            raise HostFailure(
                f"process {process.pid} survives SIGKILL for {_KILL_TIMEOUT} s", code="process_stuck",
                hint="it waits in the kernel, most likely for a disk: see /proc/<pid>/stack on the server",
            )


def _open_gate(gate: Path, init: Identity) -> None:
    """Let a created init run: it waits until somebody reads from the FIFO, and writes one byte to it then."""
    try:
        handle = os.open(gate, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # it runs already
    deadline = time.monotonic() + _CREATE_TIMEOUT
    try:
        while not _byte_came(handle) and gate.exists():  # gone: somebody else has started it
            if not init.alive():
                raise HostFailure("the container's init ended when it was started", hint="its log may say why")
            if time.monotonic() > deadline:
                raise Timeout(f"the container's init did not run within {_CREATE_TIMEOUT} s", hint="the server is overloaded")
    finally:
        os.close(handle)
    gate.unlink(missing_ok=True)


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


def _byte_came(fifo: int) -> bool:
    poll = select.poll()
    poll.register(fifo, select.POLLIN)
    poll.poll(20)
    try:
        return bool(os.read(fifo, 1))
    except BlockingIOError:
        return False


def _joins(cgroup: Cgroup) -> list[str]:
    """The runtime takes cgroups v1 paths relative to where it is itself: put it where they are relative to."""
    if cgroup.path.startswith("/"):
        return []
    own = {key: found.own for key, found in cgroups.hierarchies().items()}
    words: list[str] = []
    for key, folder in cgroup.parents.items():
        base = Path(folder.removesuffix(f"/{cgroup.path}"))
        if own.get(key) != base:
            words += ["--join", str(base)]
    return words


def _mounts(root: RootPlan) -> list[str]:
    words: list[str] = []
    for mount in root.mounts:
        match mount:
            case IdmapMount():
                words += ["--idmap", str(mount.source), mount.target]
            case OverlayMount():
                words += ["--overlay", ":".join(mount.lower), mount.upper, mount.work, mount.target]
    return words


def _close_devices(cgroup: Cgroup) -> None:
    """runc allows /dev/net/tun and making any node, whatever the configuration says. Nobody needs either."""
    devices = cgroup.parents.get("devices")
    if devices is not None:
        for rule in ("c 10:200 rwm", "c *:* m", "b *:* m"):
            cgroups.write(Path(devices), "devices.deny", rule)


def _last_words(folder: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return " ".join((folder / "stderr").read_text(errors="replace").split())[-600:]
    return ""


def _creation_failure(spec: ContainerSpec, cgroup: Cgroup, words: str) -> HostFailure | Invalid:
    if spec.limits.memory is not None and ("OOM-killed" in words or cgroups.oom_kills(cgroup.parents)):
        return Invalid(
            f"a memory limit of {format_size(spec.limits.memory)} is too small for a container to start",
            hint="give it more memory: 16M is enough for a shell", code="memory_too_small",
        )
    return HostFailure(f"the container's sandbox could not be made: {words or 'no message'}", code="runtime_failed",
                       hint="run `hostler doctor` on this server: it lists what is missing")
