"""The child of the self-test: `python -m appliance.updater.golden`.

A request comes on standard input, the outcome goes out on one line; whatever a runtime prints goes to standard error.
It gives its rights away before a runtime is imported.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable

# <linux/prctl.h>, <linux/sched.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_STACKS_BYTES_PER_CORE = 32 << 20
"""What the stacks of a runtime's threads count for, though hardly any of it is used."""


def main(prove: Callable[[bytes], bytes] | None = None) -> None:
    """prove: request to outcome, both JSON; `proof.prove` unless a test brings runtimes of its own."""
    request = sys.stdin.buffer.readline()
    given = json.loads(request)
    confine(given["memory_mb"] * 1_000_000)
    if os.getppid() != given["parent"]:
        # It ended before the kernel knew that it was waited for.
        os._exit(1)
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if prove is None:
        # A user's network of its own can be had by a process of one thread only, and NumPy starts some.
        from appliance.updater import proof

        prove = proof.prove
    answer.write(prove(request) + b"\n")
    answer.flush()
    # What is left to tear down is not the model's.
    os._exit(0)


def confine(memory_bytes: int) -> None:
    """Give away what is not needed: memory beyond the limit, new rights, the network, a life without the parent.

    The network stays where the kernel lets this user have none of its own; in the unit it is gone already.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    data = memory_bytes + _STACKS_BYTES_PER_CORE * len(os.sched_getaffinity(0))
    _limit(resource.RLIMIT_DATA, data)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(what: int, limit: int) -> None:
    most = resource.getrlimit(what)[1]
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(what, (limit, limit))


if __name__ == "__main__":
    main()
