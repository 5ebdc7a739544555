"""The lab's user, folders and files on this machine: made when missing or different, else left alone."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
from pathlib import Path

from hostler.core.errors import HostFailure
from hostler.host.process import run
from hostler.node.lab.layout import USER, Folder, Lab
from hostler.node.lab.record import Record

#: Where a shell finds commands of the machine's own.
PATH_COMMAND = Path("/usr/local/bin/hostler")


def make_user() -> bool:
    """The unprivileged system user; whether it was made now."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        run(["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", USER])
        return True
    return False


def make_folder(folder: Folder) -> bool:
    """A folder with its mode and owner; whether anything changed."""
    changed = not folder.path.is_dir()
    if changed:
        folder.path.mkdir(parents=True)
    return _own(folder.path, folder.mode, folder.owner) or changed


def write_file(path: Path, text: str, mode: int, owner: str = "root:root") -> bool:
    """A file with this text, mode and owner, replaced whole; whether anything changed."""
    changed = not path.is_file() or path.read_text() != text
    if changed:
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(text)
        _own(draft, mode, owner)
        draft.replace(path)
    return _own(path, mode, owner) or changed


def _own(path: Path, mode: int, owner: str) -> bool:
    user, group = owner.split(":")
    wanted = (mode, pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid)
    seen = path.stat()
    if (seen.st_mode & 0o7777, seen.st_uid, seen.st_gid) == wanted:
        return False
    os.chown(path, wanted[1], wanted[2])
    path.chmod(mode)
    return True


# --- a checkout below a closed folder, such as /root ---


def closed_folders(paths: list[Path]) -> list[Path]:
    """Folders on the way to ``paths`` that others may not pass, outermost first."""
    ways = {parent for path in paths for parent in path.resolve().parents}
    return sorted(folder for folder in ways if not folder.stat().st_mode & 0o001)


def let_pass(lab: Lab) -> list[Path]:
    """Let the unprivileged user pass the folders above the checkout, the interpreter and the home: it may go through them,
    not list or read them. The folders that were opened so, with an access control list (``acl(5)``). Nothing takes that back by
    itself: other installations may lie below the same folder.

    Raises :class:`HostFailure` when the user still cannot run the platform's Python.
    """
    opened = []
    for folder in closed_folders([lab.checkout / ".venv", (lab.bin / "python").resolve(), lab.home]):
        before = run(["getfacl", "--omit-header", "--absolute-names", folder]).text
        if f"user:{USER}:--x" not in before:
            run(["setfacl", "--modify", f"user:{USER}:--x", folder])
            opened.append(folder)
    tried = as_user([lab.bin / "python", "-c", "import hostler.settings, hostler_plugins.ns"], check=False)
    if tried != 0:
        raise HostFailure(
            f"user {USER} cannot run the platform from {lab.checkout}",
            hint="a file system there refuses it (noexec, no access control lists), or files are closed to others: put the checkout in /opt",
        )
    return opened


def as_user(command: list[str | Path], *, check: bool = True, env: dict[str, str] | None = None) -> int:
    """Run a command as the unprivileged user, for its status."""
    return run([*AS_USER, *command], check=check, env=env, cwd=Path("/")).returncode


#: Prefix of a command that runs as the unprivileged user, with nothing of root's left.
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", "--inh-caps=-all", "--no-new-privs")


# --- the command on the PATH ---


def put_on_path(lab: Lab) -> str:
    """Link the machine's ``hostler`` to this installation's, unless something else has that name. A remark, or nothing."""
    if PATH_COMMAND.is_symlink() and (PATH_COMMAND.readlink() == lab.command or not PATH_COMMAND.exists()):
        if PATH_COMMAND.readlink() == lab.command:
            return ""
        PATH_COMMAND.unlink()  # it points to an installation that is gone
    elif PATH_COMMAND.exists():
        return f"{PATH_COMMAND} is another's and was left alone; this installation's command is {lab.command}"
    PATH_COMMAND.symlink_to(lab.command)
    return ""


def take_off_path(lab: Lab) -> None:
    """Remove the link if it is this installation's."""
    if PATH_COMMAND.is_symlink() and PATH_COMMAND.readlink() == lab.command:
        PATH_COMMAND.unlink()


# --- the end ---


def delete_home(lab: Lab) -> None:
    """Delete the home folder. Refuses one that is not an installation's; nothing may be mounted below."""
    if not lab.home.exists():
        return
    if not Record.file(lab.home).is_file():
        raise HostFailure(f"{lab.home} does not look like an installation: it was left alone", hint="delete it by hand if it should go")
    shutil.rmtree(lab.home)
