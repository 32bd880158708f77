"""Write MLServer's settings into a scratch folder, then become `mlserver start`."""

# mypy: ignore-errors

import os
import sys
import tempfile

import engine
import runtime

if __name__ == "__main__":
    folder = tempfile.mkdtemp(prefix="mlserver-", dir=os.environ.get("SCRATCH"))
    runtime.folder(folder, engine.PORT, bool(os.environ.get("TINY_MODEL")))
    os.execv(sys.executable, [sys.executable, "-c", "from mlserver.cli import main; main()", "start", folder])
