"""Clients generated from /openapi.json for TypeScript, Java and C# call a running box.

openapi-generator writes them, and small programs (tests/generated) use them: a raw JPEG, a form, base64 in JSON, the
list of results, a tensor of the Open Inference Protocol. What each language needs beside the generated code:

- TypeScript: `typescript-fetch`, tsc, Node.
- Java: library `apache-httpclient`; Debian's httpclient5, and Jackson out of the generator's own archive. The library
  `native` writes a raw body as JSON, so with it only forms and JSON can be sent.
- C#: library `httpclient` on Mono, since Debian has no .NET SDK. Debian's Newtonsoft.Json is of 2014 and knows no
  naming strategies: their three lines are taken out of the generated code, where every name is given by an attribute.

`make` puts the tools below .venv/generated; GENERATED_TOOLS names another place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from appliance.config import shipped_models_dir
from appliance.http.openapi.own import EXAMPLE_PICTURE
from tests.support.box import ROOT, Box, running_box

TOOLS = Path(os.environ.get("GENERATED_TOOLS", ROOT / ".venv" / "generated"))
PROGRAMS = ROOT / "tests" / "generated"
JARS = Path("/usr/share/java")
JSON_NET = Path("/usr/lib/cli/Newtonsoft.Json-5.0/Newtonsoft.Json.dll")

GENERATORS = {
    "typescript": "{generatorName: typescript-fetch, additionalProperties: {importFileExtension: .js}",
    "java": "{generatorName: java, library: apache-httpclient, additionalProperties: {openApiNullable: 'false'}",
    "csharp": "{generatorName: csharp, library: httpclient, "
    "additionalProperties: {targetFramework: net48, nullableReferenceTypes: 'false', supportsRetry: 'false'}",
}
TYPESCRIPT = {
    "strict": True,
    "target": "es2022",
    "module": "nodenext",
    "lib": ["es2022", "dom", "dom.iterable"],
    "types": [],
    "outDir": "js",
}
SAID = [
    "picture ng committed",
    "form ng P-2",
    "base64 ng P-3",
    "results 1 generated",
    "tensors surface probabilities ng",
]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    models = tmp_path_factory.mktemp("models")
    (models / "surface").symlink_to(shipped_models_dir() / "surface")
    with running_box(tmp_path_factory.mktemp("box"), models) as box:
        yield box


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory, box: Box) -> Path:
    """A folder with the generated code of each language."""
    folder = tmp_path_factory.mktemp("clients")
    document = folder / "openapi.json"
    document.write_bytes(box.http.get("/openapi.json").content)
    plans = []
    for language, plan in GENERATORS.items():
        # The form of its configuration files is YAML; one line each is enough.
        plans.append(folder / f"{language}.yaml")
        plans[-1].write_text(f"{plan}, inputSpec: '{document}', outputDir: '{folder / language}'}}\n")
    # One Java machine for all three.
    run(["java", "-jar", generator(), "batch", "--fail-fast", *plans])
    return folder


def test_typescript_client_calls_the_box(clients: Path, box: Box) -> None:
    folder = clients / "program"
    shutil.copytree(clients / "typescript", folder / "client")
    shutil.copy(PROGRAMS / "calls.ts", folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": TYPESCRIPT, "files": ["calls.ts"]}))
    node = TOOLS / "bin" / "node"
    run([node, TOOLS / "node_modules" / "typescript" / "bin" / "tsc", "-p", folder])
    assert said([node, folder / "js" / "calls.js"], box) == SAID


def test_java_client_calls_the_box(clients: Path, box: Box) -> None:
    classes = clients / "classes"
    jars = [
        JARS / f"{name}.jar" for name in ("geronimo-annotation-1.3-spec", "httpclient5", "httpcore5", "httpcore5-h2")
    ]
    path = ":".join(map(str, [classes, generator(), *jars]))
    sources = sorted((clients / "java" / "src" / "main").rglob("*.java"))
    run(["javac", "-nowarn", "-proc:none", "-d", classes, "-cp", path, *sources, PROGRAMS / "Calls.java"])
    assert said(["java", "-cp", path, "Calls"], box) == SAID


def test_csharp_client_calls_the_box(clients: Path, box: Box) -> None:
    sources = sorted((clients / "csharp" / "src" / "Org.OpenAPITools").rglob("*.cs"))
    for source in sources:
        text = source.read_text(encoding="utf-8-sig")
        source.write_text(re.sub(r"NamingStrategy = new CamelCaseNamingStrategy\s*\{[^}]*\},?", "", text))
    # Mono looks for libraries beside the program.
    library = shutil.copy(JSON_NET, clients)
    program = clients / "calls.exe"
    parts = ("Net.Http", "ComponentModel.DataAnnotations", "Runtime.Serialization", "Web")
    references = [f"-r:System.{part}" for part in parts]
    run(
        ["mcs", "-langversion:latest", f"-out:{program}", *references, f"-r:{library}", PROGRAMS / "Calls.cs", *sources]
    )
    assert said(["mono", program], box) == SAID


def generator() -> Path:
    return next(TOOLS.glob("lib/python3*/site-packages/openapi_generator_cli/openapi-generator.jar"))


def said(command: Sequence[str | Path], box: Box) -> list[str]:
    """What a program prints that is given the box and a picture."""
    return run([*command, box.url, EXAMPLE_PICTURE]).splitlines()


def run(command: Sequence[str | Path]) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command[0]}: {(done.stdout + done.stderr)[-4000:]}"
    return done.stdout
