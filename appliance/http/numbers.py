"""How many numbers one call may bring, and how many the HTTP loop reads and writes itself."""

from __future__ import annotations

from appliance.core.manifest import ModelManifest
from appliance.core.tensors import Array
from appliance.errors import ShapeError
from appliance.served import ROWS_MAX

PARSED_ON_LOOP_MAX = 64 << 10
"""Bytes of JSON; more would hold up every other caller, so a thread takes it."""

BYTES_PER_NUMBER = 10
"""About what one takes in JSON."""


def check_rows(tensors: dict[str, Array], manifest: ModelManifest) -> dict[str, Array]:
    """Return the inputs of a model. Raises ShapeError for more rows than a call may have."""
    for spec in manifest.inputs:
        rows = len(tensors[spec.name])
        if spec.shape[0] == -1 and rows > ROWS_MAX:
            raise ShapeError(f"input {spec.name!r} has {rows} rows; send at most {ROWS_MAX} in a call")
    return tensors
