"""Lengths written into a manifest, which stays as its author wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import RegistryError
from appliance.repository import read_version
from provisioning.registry import lengths
from tests.support.models import write_model

BLOCKS = """\
[[variants]]
name = "openvino-f32"  # as exported
format = "openvino"
precision = "f32"

[[variants.files]]
path = "openvino-f32/model.xml"
sha256 = "{xml}"   # by hand

  [[variants.files]]
  path = "openvino-f32/model.bin"
  sha256 = '{bin}'
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path, "tiny", "1")


def test_every_file_gets_its_length(folder: Path) -> None:
    version = read_version(folder)
    assert lengths.missing(version.manifest)
    assert lengths.fill(version) == len(version.manifest.files())
    filled = read_version(folder)
    assert {path: file.bytes for path, file in filled.manifest.files().items()} == {
        path: (folder / path).stat().st_size for path in version.manifest.files()
    }
    assert lengths.fill(filled) == 0


def test_comments_and_order_stay(folder: Path) -> None:
    path = folder / "manifest.toml"
    version = read_version(folder)
    hashes = {Path(name).suffix: file.sha256 for name, file in version.manifest.files().items()}
    lines = [line for line in path.read_text().splitlines() if not line.startswith('"variants"')]
    head = "\n".join(line for line in lines if not line.startswith('"golden"'))
    golden = next(line for line in lines if line.startswith('"golden"'))
    text = f"{head}\n{golden}\n{BLOCKS.format(xml=hashes['.xml'], bin=hashes['.bin'])}"
    path.write_text(text)
    lengths.fill(read_version(folder))
    after = path.read_text()
    size = (folder / "openvino-f32" / "model.xml").stat().st_size
    assert f'sha256 = "{hashes[".xml"]}"   # by hand\nbytes = {size}\n' in after
    assert f"  sha256 = '{hashes['.bin']}'\n  bytes = " in after
    kept = [line for line in after.splitlines() if not line.strip().startswith("bytes")]
    assert [line for line in kept if '"golden"' not in line] == [
        line for line in text.splitlines() if '"golden"' not in line
    ]


def test_a_wrong_length_is_told_and_nothing_is_written(folder: Path) -> None:
    path = folder / "manifest.toml"
    name, file = next(iter(read_version(folder).manifest.files().items()))
    wrong = path.read_text().replace(f'"sha256" = "{file.sha256}"', f'"sha256" = "{file.sha256}", "bytes" = 1')
    path.write_text(wrong)
    with pytest.raises(RegistryError, match=rf"the length of {name} could not be written; write `bytes = \d+`"):
        lengths.fill(read_version(folder))
    assert path.read_text() == wrong
