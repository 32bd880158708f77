"""In the place of the self-test's child: a runtime that misbehaves on the model. `python -m ... HOW [WHERE]`.

The fault comes while the model is compiled, as far as the runtime's own code is concerned.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from appliance.core.manifest import ModelManifest, Variant
from appliance.errors import ModelLoadError
from appliance.runtimes import LoadedModel, LoadOptions, default_loaders
from appliance.updater.golden import main
from appliance.updater.proof import prove


def load(manifest: ModelManifest, variant: Variant, files: Mapping[str, bytes], options: LoadOptions) -> LoadedModel:
    how, where = sys.argv[1], sys.argv[2:]
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "abort":
        # As the C++ library does when nobody catches it.
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()
    if how == "hang":
        threading.Event().wait()
    if how == "leave-a-child":
        # It stays in the session, and holds standard output open.
        subprocess.Popen(["sleep", "600"])
        threading.Event().wait()
    if how == "exit":
        os._exit(int(where[0]))
    if how == "allocate":
        np.ones(1 << 40, np.uint8)
    if how == "map":
        # Shared memory, which RLIMIT_DATA does not count.
        memory = mmap.mmap(-1, 1 << 30)
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1
        threading.Event().wait()
    if how == "chatter":
        print("words on standard output\n" * 1000)
        # More than is kept of it; native code takes no notice.
        with suppress(OSError):
            os.write(2, b"and on standard error\n" * 100_000)
    if how == "dial":
        try:
            socket.create_connection(("127.0.0.1", int(where[0])), timeout=5)
        except OSError as error:
            raise ModelLoadError(f"no way out: {error}") from error
    return default_loaders()["openvino"](manifest, variant, files, options)


if __name__ == "__main__":
    main(lambda request: prove(request, {"openvino": load}))
