"""`make system` boots the units and mounts images; it needs root, a Debian archive and loop devices, which few have."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("BOOT") else ["test_boot.py", "test_read_only_disk.py"]
