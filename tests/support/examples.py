"""Write the examples of the OpenAPI document again, from the answers of a box with the shipped models.

python -m tests.support.examples
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from appliance.config import shipped_models_dir
from appliance.http import openapi
from tests.support.box import Box, running_box
from tests.support.openapi import calls, has_example, request_of

TARGET = Path(openapi.__file__).with_name("examples.json")


def ask(box: Box) -> dict[str, Any]:
    """The answers by operation id, and one of each form of error. The other versions and labels answer the same."""
    found: dict[str, Any] = {}
    for call in calls(openapi.document()):
        if call.path.startswith("/openapi") or not has_example(call) or call.id.endswith(("Version", "Label")):
            continue
        if "application/json" in call.operation["responses"]["200"].get("content", {}):
            reply = box.http.send(request_of(box.http, call))
            assert reply.status_code == 200, (call.id, reply.text)
            found[call.id] = reply.json()
    found["problem"] = box.http.post("/v1/predict/nothing", content=b"?").json()
    found["error"] = box.http.get("/v2/models/nothing").json()
    picture = {"image": ("part.jpg", b"?", "image/jpeg")}
    found["deepstack_error"] = box.http.post("/v1/vision/custom/nothing", files=picture).json()
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_box(Path(folder), shipped_models_dir()) as box:
        TARGET.write_text(json.dumps(ask(box), indent=1) + "\n")


if __name__ == "__main__":
    main()
