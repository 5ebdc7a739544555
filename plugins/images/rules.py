"""What an image may hold, entry by entry. Pure: names and values in, answers or typed errors out.

What tenants may have:

* owners 0 … 65535, any mode, set-uid included: files live under an id-mapped mount in the tenant's own user
  namespace. Whoever gives the target folder must keep it below a folder that is closed to the host's users.
* extended attributes ``user.*``, and ``security.capability``. The latter is stored in version 2, without the
  root id of version 3: by ``get_vfs_caps_from_disk()`` the kernel takes it to belong to id 0 of the mount, which an
  id-mapped mount makes the tenant's own root. ``user.overlay.*``, which overlayfs would act on, and all
  others (``trusted.*``, ACLs, labels) are left out.
"""

from __future__ import annotations

import errno
import struct

from hostler.core.errors import HostFailure, HostlerError, Invalid, NoRoom
from hostler_plugins.images.stream import damaged
from hostler_plugins.images.tar import Entry, Kind, shown

#: Ids of a tenant's user namespace are smaller than this.
_IDS = 65_536
#: Folders in each other. Every program that removes or copies a tree by recursion must survive it.
DEPTH = 200
PATH_MAX = 4095
NAME_MAX = 255
#: Version 2 of ``struct vfs_cap_data`` (linux/capability.h): magic and flags, then twice permitted and inheritable.
_CAPS_2 = 0x02000000
_CAPS_3 = 0x03000000

_CLIMBS = "an image's files must stay in its root: make the archive with `tar -C ROOT -c .`"


def parts_of(name: bytes) -> list[bytes]:
    """The components of an entry's name; none for the root itself. Raises :class:`Invalid` for one that climbs."""
    if name.startswith(b"/") or b".." in name.split(b"/"):
        raise Invalid(f"{shown(name)} climbs out of the archive's root", hint=_CLIMBS, code="image_unsafe")
    if not name or b"\0" in name:
        raise damaged(f"{shown(name)} is no file name")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if len(name) > PATH_MAX or len(parts) > DEPTH or any(len(part) > NAME_MAX for part in parts):
        raise too_deep(name)
    return parts


def too_deep(name: bytes) -> Invalid:
    """The error for a path that file systems, or programs that walk them, would not bear."""
    return Invalid(
        f"the name {shown(name)} is too long or lies too deep",
        hint=f"names may have {NAME_MAX} bytes, paths {PATH_MAX}, and {DEPTH} folders in each other",
        code="image_unsafe",
    )


def check_allowed(entry: Entry) -> None:
    """Raise :class:`Invalid` for an entry that no image may hold: a device, a foreign owner, a link to nothing."""
    name = shown(entry.name)
    if entry.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        raise Invalid(
            f"{name} is a {entry.kind.value}, which no image may hold",
            hint="leave devices out with `tar --exclude=./dev/*`; a container gets its own /dev",
            code="image_unsafe",
        )
    if not (0 <= entry.uid < _IDS and 0 <= entry.gid < _IDS):
        raise Invalid(
            f"{name} belongs to {entry.uid}:{entry.gid}; a container has the ids 0 to {_IDS - 1}",
            hint="make the archive with `tar --numeric-owner` inside the system it is of, or give other --owner and --group",
            code="image_unsafe",
        )
    if entry.kind is Kind.SYMLINK and (not entry.link or b"\0" in entry.link or len(entry.link) > PATH_MAX):
        raise damaged(f"the link {name} has no valid target")


def kept_xattr(entry: Entry, key: bytes, value: bytes) -> bytes | None:
    """What is stored of an extended attribute, or None when tenants may not have it (see the module's docstring)."""
    if key.startswith(b"user.") and not key.startswith(b"user.overlay."):
        return value
    if key != b"security.capability" or entry.kind is not Kind.FILE:
        return None
    magic = struct.unpack_from("<I", value)[0] if len(value) >= 4 else 0
    if (magic & ~1, len(value)) not in ((_CAPS_2, 20), (_CAPS_3, 24)):
        raise damaged(f"the file capabilities of {shown(entry.name)} are malformed")
    return struct.pack("<I", _CAPS_2 | magic & 1) + value[4:20]


_ENTRYS_FAULT = {
    errno.ENAMETOOLONG: "its name is too long for the file system",
    errno.ELOOP: "its folder is a link in a circle",
    errno.ENOTDIR: "its folder is no folder",
    errno.ENOENT: "its folder is a link that leads nowhere",
    errno.EEXIST: "its folder is a file, or a link that leads nowhere",
    errno.EMLINK: "it has too many hard links",
    errno.EPERM: "the kernel forbids it",
    errno.EINVAL: "the file system does not take its name, size or attributes",
    errno.EFBIG: "it is larger than the file system takes",
    errno.E2BIG: "its attributes are too large",
    errno.ERANGE: "its attributes are too large",
}


def typed(error: OSError, name: bytes) -> HostlerError:
    """An error for people from a system call's on an entry."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom(
            f"no space is left to unpack {shown(name)}",
            hint="free or add space in this server's storage pool",
            code="disk_full",
        )
    if error.errno in _ENTRYS_FAULT:
        return Invalid(
            f"{shown(name)} cannot be unpacked: {_ENTRYS_FAULT[error.errno]}",
            hint="make the archive of a whole root file system, with tar",
            code="image_unsafe",
        )
    return HostFailure(
        f"cannot unpack {shown(name)}: {error.strerror}",
        hint="look at the storage pool of this server and its kernel log",
    )
