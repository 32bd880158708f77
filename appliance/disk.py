"""What kind of disk the data folder is on.

SQLite's locks and its shared memory do not work across machines, and a network file system loses what was synced when
the other side goes away: the promise that what is acknowledged is on disk cannot be kept there.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# Magic numbers of `statfs(2)`. FUSE is as good as what is behind it, which the kernel does not know.
_NETWORK = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB",
    0xFF534D42: "CIFS",
    0x01021997: "9P",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x73757245: "Coda",
    0x00C36400: "Ceph",
    0x0BD00BD0: "Lustre",
    0x19830326: "FhGFS",
    0x786F4256: "a shared folder of VirtualBox",
    0xBACBACBC: "a shared folder of VMware",
    0x65735546: "FUSE",
}
_STATFS_BYTES = 256


def network_file_system(magic: int) -> str | None:
    """The name of a file system that is, or may be, on another machine; None for a local one."""
    return _NETWORK.get(magic & 0xFFFFFFFF)


def magic_of(folder: Path) -> int:
    """The file system's magic number: the first field of `struct statfs`. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc.statfs(os.fsencode(folder), answer) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    return ctypes.c_long.from_buffer(answer).value & 0xFFFFFFFF


def free_bytes(folder: Path) -> int:
    """What this user may still write on the disk of `folder`."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def total_bytes(folder: Path) -> int:
    """The size of the disk of `folder`."""
    disk = os.statvfs(folder)
    return disk.f_blocks * disk.f_frsize
