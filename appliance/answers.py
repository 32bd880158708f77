"""Answers to inputs that were judged before, in memory only: the least recently used go first.

What is kept is what the model said, not a result: an input that comes again is recorded again, as another part. Kept
answers are shared between threads and never changed.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections import OrderedDict

import numpy as np

from appliance.core.prediction import ClassScore, HeatMap, Prediction, Region
from appliance.core.protocol import InferenceRequest, Timing
from appliance.served import Inferred, ServedModel

_FLOAT = sys.getsizeof(0.0)
_TUPLE = sys.getsizeof(())
_POINTER = sys.getsizeof((0,)) - _TUPLE
_CLASS = sys.getsizeof(ClassScore("", 0.0)) + _FLOAT + _POINTER
_BOX = sys.getsizeof((0, 0, 0, 0)) + 4 * sys.getsizeof(1 << 20)
_REGION = sys.getsizeof(Region("", 0.0, (0, 0, 0, 0), 0.0)) + 2 * _FLOAT + _BOX + _POINTER
_HEATMAP = sys.getsizeof(HeatMap(0, 0, b"")) + sys.getsizeof(b"")
_PREDICTION = sys.getsizeof(Prediction()) + 2 * _TUPLE + _FLOAT + _POINTER
_ARRAY = sys.getsizeof(np.empty(0)) + _POINTER
_TIMING = sys.getsizeof(Timing(0.0, 0.0, 0.0, 0.0)) + 4 * _FLOAT
_KEY_BYTES = 32
# The key, the entry of the ordered dictionary (a node of seven words beside its slot), the number of bytes.
_ENTRY = sys.getsizeof(bytes(_KEY_BYTES)) + 20 * _POINTER + _TIMING


class Answers:
    """Bounded by the bytes that its answers hold. Any thread may call it."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[Inferred, int]] = OrderedDict()
        self._bytes = 0
        self.hits = 0
        self.misses = 0

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> Inferred | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: bytes, inferred: Inferred) -> None:
        """An answer above the bound is not kept at all, since it would drive out all the others."""
        weight = weigh(inferred)
        if weight > self._bytes_max:
            return
        with self._lock:
            _, before = self._kept.pop(key, (None, 0))
            self._bytes += weight - before
            self._kept[key] = inferred, weight
            while self._bytes > self._bytes_max:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._bytes -= dropped


def answer_key(request: InferenceRequest, served: ServedModel) -> bytes | None:
    """What has the same key has the same answer; None for streams, whose inputs do not come again.

    The number of the loaded model stands for its manifest, variant, precision and tuning. The verdict's rule is no part
    of the key: the verdict is told from the prediction each time.
    """
    if request.door == "mqtt":
        return None
    known = hashlib.blake2b(request.body, digest_size=_KEY_BYTES)
    # The body's length keeps what follows it from being taken for a part of it.
    known.update(f"\0{len(request.body)}\0{request.media_type}\0{served.number}\0{request.outputs}".encode())
    if request.tensors is not None:
        for name in sorted(request.tensors):
            array = np.ascontiguousarray(request.tensors[name])
            known.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            known.update(array.data)
    return known.digest()


def weigh(inferred: Inferred) -> int:
    """Bytes that a kept answer holds. Labels and units belong to the manifest, and cost nothing."""
    weight = _ENTRY + sys.getsizeof(inferred) + _TUPLE
    for prediction in inferred.predictions:
        weight += _PREDICTION + len(prediction.classes) * _CLASS + len(prediction.regions or ()) * _REGION
        if prediction.heatmap is not None:
            weight += _HEATMAP + len(prediction.heatmap.cells)
    for array in (inferred.outputs or {}).values():
        # A row of a batch keeps the whole batch alive.
        weight += _ARRAY + (array if array.base is None else array.base).nbytes
    if inferred.trace is not None:
        # The floats of low and high.
        curves = inferred.trace.low + inferred.trace.high
        weight += sum(sys.getsizeof(curve) + len(curve) * _FLOAT for curve in curves)
    return weight
