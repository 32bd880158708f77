"""`make system` boots the units; it needs root, a Debian archive and a minute, so that `make test` goes without."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("BOOT") else ["test_boot.py"]
