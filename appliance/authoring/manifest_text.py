"""The text of a manifest, for people to read and change: TOML with the reasons beside what was decided for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from appliance.core.manifest import Boxes, GoldenCase, ImagePreprocess, ModelManifest, Postprocess, Variant
from appliance.core.tensors import TensorSpec

_GOOD = frozenset({"good", "ok", "normal", "pass", "passed", "intact", "fine", "no_defect", "no defect"})


def good_label(labels: Iterable[str]) -> str | None:
    """The one label that says a part is good, if exactly one does."""
    good = [label for label in labels if label.strip().lower() in _GOOD]
    return good[0] if len(good) == 1 else None


def to_text(manifest: ModelManifest) -> str:
    """A manifest whose verdict rule is the one that `verdict_text` writes; read back it is equal to `manifest`."""
    head = {name: getattr(manifest, name) for name in ("schema", "name", "version", "title", "licence", "provenance")}
    blocks = [_table("", {**head, "labels": list(manifest.labels)})]
    blocks += [_spec("inputs", spec) for spec in manifest.inputs]
    blocks += [_spec("outputs", spec) for spec in manifest.outputs]
    steps = manifest.preprocess
    if isinstance(steps, ImagePreprocess):
        blocks.append(
            "# From a picture to the input: (pixel - mean) / std, pixels 0..255. `appliance models check` compares it\n"
            "# with what the author's own code does.\n" + _table("[preprocess]", _plain(steps, "kind"))
        )
    else:
        blocks.append(_table("[preprocess]", {"kind": "tensor"}))
    blocks += _postprocess(manifest.postprocess)
    blocks.append(verdict_text(manifest))
    blocks += [_variant(variant) for variant in manifest.variants]
    blocks += [_golden(case) for case in manifest.golden]
    return "\n".join(blocks)


def verdict_text(manifest: ModelManifest) -> str:
    """The rule as it is, or, where there is none, an example to uncomment."""
    rule = msgspec.to_builtins(manifest.verdict)
    classes = rule.pop("classes", None)
    if manifest.postprocess.boxes is not None and rule:
        return (
            "# What is found is counted: one finding goes to a person. With count_ng_min = 1 it rejects the part;\n"
            "# with this table removed the model finds and counts, and says `none`.\n" + _table("[verdict]", rule)
        )
    if classes:
        return (
            "# The best class decides; one less sure than class_score_min goes to a person.\n"
            + _table("[verdict]", rule)
            + "\n"
            + _table("[verdict.classes]", classes)
        )
    if manifest.postprocess.classes is None:
        return "# Tensors only: nothing here says what they mean for a part, so the verdict is `none`.\n"
    example = "".join(f'# {_key(label)} = "ok"\n' for label in manifest.labels[:4])
    return (
        "# No label says that a part is good, so the verdict is `none`. To have one, uncomment this and say what each\n"
        "# label means for the part: ok, ng or review. A label left out means review.\n"
        f"# [verdict]\n# class_score_min = 0.6\n# [verdict.classes]\n{example}"
    )


def _spec(section: str, spec: TensorSpec) -> str:
    return _table(f"[[{section}]]", {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)})


def _postprocess(steps: Postprocess) -> list[str]:
    fields = {name: value for name, value in _plain(steps).items() if name != "boxes" and value is not None}
    blocks = [_table("[postprocess]", {name: value for name, value in fields.items() if name != "heatmap_min"})]
    if isinstance(steps.boxes, Boxes):
        blocks.append(_table("[postprocess.boxes]", _plain(steps.boxes)))
    return blocks


def _variant(variant: Variant) -> str:
    text = _table(
        "[[variants]]", {"name": variant.name, "format": variant.format, "precision": variant.precision}
    ) + "".join("\n" + _table("[[variants.files]]", _given(file)) for file in variant.files)
    return text + ("\n" + _table("[variants.tensors]", variant.tensors) if variant.tensors else "")


def _golden(case: GoldenCase) -> str:
    fields = _given(case)
    tolerances = fields.pop("tolerances")
    return _table("[[golden]]", fields) + "\n" + _table("[golden.tolerances]", tolerances)


def _plain(part: msgspec.Struct, tag: str | None = None) -> dict[str, Any]:
    """Every field, defaults included: who changes a file wants to see what there is."""
    fields = {name: msgspec.to_builtins(getattr(part, name)) for name in part.__struct_fields__}
    return {tag: part.__struct_config__.tag, **fields} if tag else fields


def _given(part: msgspec.Struct) -> dict[str, Any]:
    """Without what is not said."""
    return {name: value for name, value in _plain(part).items() if value is not None}


def _table(header: str, fields: Mapping[str, Any]) -> str:
    lines = [header] if header else []
    return "".join(
        f"{line}\n" for line in (*lines, *(f"{_key(name)} = {_value(each)}" for name, each in fields.items()))
    )


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {_value(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    # Text, numbers and booleans as in JSON, but for characters beyond 16 bits and DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
