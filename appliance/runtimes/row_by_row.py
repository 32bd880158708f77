"""Several rows through a network that takes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from appliance.core.tensors import Array, TensorSpec
from appliance.errors import InferenceError
from appliance.runtimes import Infer


def free_rows(specs: Iterable[TensorSpec]) -> tuple[str, ...]:
    """The tensors whose first axis the manifest leaves free."""
    return tuple(spec.name for spec in specs if spec.shape[0] == -1)


def row_by_row(one: Infer, free: tuple[str, ...]) -> Infer:
    """Each row of the inputs `free` on its own, with the other inputs as they are; outputs are joined along axis 0."""

    def infer(tensors: Mapping[str, Array]) -> dict[str, Array]:
        counts = {len(tensors[name]) for name in free}
        if counts <= {1}:
            return one(tensors)
        if len(counts) > 1 or 0 in counts:
            raise InferenceError(f"inputs {list(free)} must have the same number of rows, at least 1")
        parts = [
            one({name: array[row : row + 1] if name in free else array for name, array in tensors.items()})
            for row in range(counts.pop())
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return infer
