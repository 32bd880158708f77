"""What a model file is, judged by its content; what cannot become a model is refused with the way out.

Nothing is executed here, and nothing of a runtime is imported: pickles in particular are recognised, never opened.
"""

from __future__ import annotations

import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Literal

import msgspec

from appliance.authoring import onnx_file
from appliance.errors import ImportRefused

FileFormat = Literal["onnx", "openvino", "tflite"]

BYTES_MAX = 2 << 30

ZIP_FAULTS = (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, EOFError, zlib.error)
"""What reading a damaged archive, or one of an unknown kind, raises."""

_NAMES: dict[FileFormat, str] = {"onnx": "model.onnx", "openvino": "model.xml", "tflite": "model.tflite"}
_SUFFIXES: dict[FileFormat, str] = {"onnx": ".onnx", "openvino": ".xml", "tflite": ".tflite"}
_TITLES: dict[FileFormat, str] = {"onnx": "an ONNX file", "openvino": "an OpenVINO .xml", "tflite": "a TFLite file"}

_FROM_PYTORCH = "export it where it was trained: `yolo export model=best.pt format=onnx`, or torch.onnx.export(...)"
_FROM_KERAS = "export it where it was trained: tf.lite.TFLiteConverter.from_keras_model(model).convert()"
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


class ModelSource(msgspec.Struct, frozen=True):
    """One form of a model as its author gave it. files: name in the bundle -> content."""

    path: Path
    format: FileFormat
    files: dict[str, bytes]

    @property
    def content(self) -> bytes:
        """Of the file that was named; an .xml has its weights beside it."""
        return self.files[_NAMES[self.format]]


def read_source(path: Path) -> ModelSource:
    """Raises ImportRefused, with what the file is and what to do instead, unless it is ONNX, TFLite or OpenVINO."""
    if path.is_dir():
        saved = (path / "saved_model.pb").exists()
        raise ImportRefused(
            f"{path} is a TensorFlow SavedModel; export it: tf.lite.TFLiteConverter.from_saved_model({path.name!r})"
            if saved
            else f"{path} is a folder; name the .onnx, .tflite or .xml file in it"
        )
    content = _read(path)
    form = _sniff(path, content)
    if path.suffix.lower() != _SUFFIXES[form]:
        raise ImportRefused(
            f"{path} is {_TITLES[form]} by its content, whatever its name says; rename it to {path.stem}"
            f"{_SUFFIXES[form]} if that is what you meant to import"
        )
    files = {_NAMES[form]: content}
    if form == "openvino":
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise ImportRefused(f"{weights} is missing; an OpenVINO .xml has its weights in a .bin beside it")
        files["model.bin"] = _read(weights)
    if form == "onnx":
        onnx_file.check(path, content)
    return ModelSource(path, form, files)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > BYTES_MAX:
            raise ImportRefused(f"{path} has {size} bytes, more than {BYTES_MAX}; use a smaller model")
        content = path.read_bytes()
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}; name a file that can be read") from error
    if not content:
        raise ImportRefused(f"{path} is empty; export it again")
    return content


def _sniff(path: Path, content: bytes) -> FileFormat:
    if content.startswith(_PICKLES):
        raise ImportRefused(f"{path} is a Python pickle, which could run anything when opened; {_FROM_PYTORCH}")
    if content.startswith(b"PK\x03\x04"):
        raise ImportRefused(_about_archive(path, content))
    if content.startswith(b"\x89HDF\r\n\x1a\n"):
        raise ImportRefused(f"{path} is a Keras HDF5 file; {_FROM_KERAS}")
    if content[4:8] == b"TFL3":
        return "tflite"
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith((b"<?xml", b"<net", b"<Net")):
        if b"<net" not in content[:4096]:
            raise ImportRefused(f"{path} is XML, but no OpenVINO network; name the .xml that the export wrote")
        return "openvino"
    if onnx_file.looks_like(content):
        return "onnx"
    raise ImportRefused(_about_unknown(path, content))


def _about_archive(path: Path, content: bytes) -> str:
    try:
        names = zipfile.ZipFile(BytesIO(content)).namelist()
    except ZIP_FAULTS:
        return f"{path} is a damaged ZIP archive; copy or export it again"
    if any(name.endswith(".pkl") for name in names):
        return f"{path} is a PyTorch file with a pickle in it, which could run anything when opened; {_FROM_PYTORCH}"
    if "model.weights.h5" in names:
        return f"{path} is a Keras file; {_FROM_KERAS}"
    return f"{path} is a ZIP archive; unpack it, and name the .onnx, .tflite or .xml file in it"


def _about_unknown(path: Path, content: bytes) -> str:
    suffix = path.suffix.lower()
    if suffix == ".bin" and path.with_suffix(".xml").exists():
        return f"{path} holds the weights of an OpenVINO model; name {path.with_suffix('.xml')} instead"
    if suffix == ".onnx":
        return f"{path} is damaged or cut off: its parts do not add up to an ONNX file; copy or export it again"
    if suffix in (".pt", ".pth", ".pkl", ".ckpt", ".safetensors"):
        return f"{path} holds weights without a network that this appliance could run; {_FROM_PYTORCH}"
    return f"{path} starts with {content[:8].hex(' ')}, neither ONNX, TFLite nor OpenVINO; export it as one of these"
