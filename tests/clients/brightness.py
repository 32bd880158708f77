"""The picture model of the tests as MLServer runs it: p(good) = mean of the input, heat = 1 - mean of each cell."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class Brightness(MLModel):  # type: ignore[misc]
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        image = NumpyCodec.decode_input(payload.inputs[0])
        if float(image.max()) > 1:
            raise ValueError("a pixel is above 1")
        good = image.mean(axis=(1, 2, 3))
        outputs = {
            "probabilities": np.stack([good, 1 - good], axis=1),
            "heatmap": 1 - image.mean(axis=3),
        }
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output(name, array.astype(np.float32)) for name, array in outputs.items()],
        )
