"""`appliance models`: what is installed, bringing one's own, comparing it with its author's answers, tuning it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from appliance.commands import options
from appliance.config import Config, load
from appliance.errors import ImportRefused, ModelError

if TYPE_CHECKING:
    from appliance.authoring.check import Report
    from appliance.authoring.importer import Imported, Question
    from appliance.repository import ModelVersion

KINDS = ("classifier", "yolov8", "yolov5", "yolov10", "tensor")


@click.group()
def models() -> None:
    """See what is installed, bring a model of your own, check it, tune it."""


@models.command("list")
@options.place
@options.as_json
def list_models(path: Path | None, data_dir: str | None, models_dir: str | None, as_json: bool) -> None:
    """List every version with its variants and the state of its files.

    Exit codes: 0 all is well, 1 a version cannot be used.
    """
    from appliance.repository import model_roots, scan

    good, broken = scan(model_roots(load(path, data_dir=data_dir, models_dir=models_dir)))
    listed = [_listed(version) for version in good]
    listed += [
        {
            "name": each.name,
            "version": each.version,
            "variants": [],
            "state": each.error.code,
            "reason": str(each.error),
        }
        for each in broken
    ]
    listed.sort(key=lambda each: (each["name"], int(each["version"]) if each["version"].isdecimal() else 0))
    if as_json:
        click.echo(msgspec.json.encode(listed))
    elif listed:
        rows = [("NAME", "VERSION", "VARIANTS", "FILES")]
        rows += [
            (each["name"], each["version"], ", ".join(each["variants"]), each["reason"] or each["state"])
            for each in listed
        ]
        options.print_table(rows)
    else:
        click.echo("no model is installed; bring one: appliance models import FILE")
    if any(each["state"] != "ok" for each in listed):
        raise SystemExit(1)


@models.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", help="of the model  [default: after the first file]")
@click.option("--version", help="a whole number  [default: the next free one]")
@click.option("--labels", help="of the classes, in the network's order, separated by commas")
@click.option("--labels-file", type=click.Path(path_type=Path), help="one label a line")
@click.option("--kind", type=click.Choice(KINDS), help="what the network is, where its shapes leave it open")
@click.option("--scale", type=click.Choice(("0..1", "-1..1", "imagenet", "0..255")), help="what a pixel becomes")
@click.option("--colour", type=click.Choice(("rgb", "bgr", "gray")), help="order of the channels  [default: rgb]")
@click.option("--layout", type=click.Choice(("nhwc", "nchw")), help="where both fit")
@click.option("--resize", type=click.Choice(("stretch", "crop", "letterbox")), help="of a picture to the input's size")
@click.option("--output", help="the output that is judged by, where there are several")
@click.option("--golden", multiple=True, type=click.Path(path_type=Path), help="a picture to keep as a golden case")
@click.option(
    "--into", type=click.Path(path_type=Path), help="a model repository  [default: models in the data folder]"
)
@click.option("--licence", help="of the model")
@click.option("--yes", is_flag=True, help="ask nothing: what has a usual value gets it, anything else is an error")
@options.place
@options.as_json
def import_command(
    files: tuple[Path, ...],
    labels: str | None,
    labels_file: Path | None,
    into: Path | None,
    yes: bool,
    path: Path | None,
    data_dir: str | None,
    models_dir: str | None,
    as_json: bool,
    **said: Any,
) -> None:
    """Bundle ONNX, TFLite or OpenVINO (.xml with its .bin) FILES of one model as a new version.

    What the files do not tell is asked on a terminal; without one it is an error that names the option. Files are read
    and tried in a process of their own, and the version appears only when it works.

    Exit codes: 0 done, 1 refused, 2 wrong option or configuration.
    """
    from appliance.authoring.importer import Options, import_model

    config = load(path, data_dir=data_dir, models_dir=models_dir)
    if into is None:
        into = Path(models_dir) if models_dir else Path(config.data_dir) / "models"
    try:
        given = msgspec.convert(
            {**said, "labels": _labels(labels, labels_file), "into": into}, Options, dec_hook=lambda _, value: value
        )
    except msgspec.ValidationError as error:
        raise click.UsageError(f"{error}") from error
    imported = import_model(files, given, _refuse if yes or not sys.stdin.isatty() else _prompt)
    if as_json:
        click.echo(msgspec.json.encode(msgspec.to_builtins(imported, enc_hook=str)))
    else:
        _tell(imported, config)


@models.command("check")
@click.argument("name")
@click.option(
    "--reference", required=True, type=click.Path(path_type=Path), help="the author's own numbers: .npz or .json"
)
@click.option("--version", help="[default: the highest]")
@click.option("--variant", help="[default: the first]")
@options.place
@options.as_json
def check_command(
    name: str,
    reference: Path,
    version: str | None,
    variant: str | None,
    path: Path | None,
    data_dir: str | None,
    models_dir: str | None,
    as_json: bool,
) -> None:
    """Compare model NAME with its author's own numbers for a picture, step by step; say which step differs first.

    The reference holds `picture` (a path beside it) and any of `input`, `outputs/<name>`, `classes`, `boxes`;
    docs/own-model.md has the lines that write it.

    Exit codes: 0 all steps agree, 1 one differs or cannot be compared, 2 wrong option or configuration.
    """
    from appliance.authoring.check import check

    config = load(path, data_dir=data_dir, models_dir=models_dir)
    report = check(_find(config, name, version), variant, reference, config)
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        _tell_report(report)
    if not report.ok:
        raise SystemExit(1)


@models.command("tune")
@click.argument("name")
@options.place
@options.as_json
def tune_command(name: str, path: Path | None, data_dir: str | None, models_dir: str | None, as_json: bool) -> None:
    """Measure again how model NAME runs best on this box.

    Exit codes: 0 done, 1 the model cannot be loaded, 2 wrong option or configuration.
    """
    from appliance.tuning import tune_again

    config = load(path, data_dir=data_dir, models_dir=models_dir)
    version = _find(config, name, None)
    choice = tune_again(config, version)
    if as_json:
        click.echo(msgspec.json.encode(choice))
        return
    rows = [("TRIED", "MS AN INPUT", "")]
    rows += [(what, f"{ms:.3f}", choice.refused.get(what, "")) for what, ms in choice.measured_ms.items()]
    rows += [(what, "", why) for what, why in choice.refused.items() if what not in choice.measured_ms]
    options.print_table(rows)
    tuning = choice.tuning
    click.echo(
        f"\n{name} {version.manifest.version} runs variant {choice.variant} in "
        f"{choice.precision or 'its own precision'}, {tuning.gear or 'both gears'}, batches of {tuning.batch_max}, "
        f"JPEGs {'at half their size' if tuning.half_size else 'whole'}, "
        f"{'without a lane' if tuning.on_loop else 'in a lane'}. A box that is running takes it at its next load."
    )


def _find(config: Config, name: str, version: str | None) -> ModelVersion:
    from appliance.errors import ModelNotFound
    from appliance.repository import model_roots, scan

    good, broken = scan(model_roots(config))
    named = [each for each in good if each.manifest.name == name and version in (None, each.manifest.version)]
    if named:
        return max(named, key=lambda each: int(each.manifest.version))
    for each in broken:
        if each.name == name and version in (None, each.version):
            raise each.error
    asked = name if version is None else f"{name} {version}"
    known = sorted({each.manifest.name for each in good})
    raise ModelNotFound(f"there is no model {asked}; there are {', '.join(known) or 'none'}")


def _listed(version: ModelVersion) -> dict[str, Any]:
    """Every file is read and its SHA-256 compared."""
    from appliance.repository import read_golden, read_variant

    manifest, reason = version.manifest, None
    try:
        for variant in manifest.variants:
            read_variant(version, variant)
        for case in manifest.golden:
            read_golden(version, case)
    except ModelError as error:
        reason = str(error)
    return {
        "name": manifest.name,
        "version": manifest.version,
        "title": manifest.title,
        "folder": str(version.folder),
        "variants": [variant.name for variant in manifest.variants],
        "signed": version.signed,
        "state": "ok" if reason is None else "damaged",
        "reason": reason,
    }


def _labels(labels: str | None, labels_file: Path | None) -> tuple[str, ...] | None:
    if labels is not None and labels_file is not None:
        raise click.UsageError("give --labels or --labels-file, not both")
    if labels_file is not None:
        try:
            lines = labels_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--labels-file {labels_file}: {error}") from error
        return tuple(line.strip() for line in lines if line.strip())
    return None if labels is None else tuple(label.strip() for label in labels.split(","))


def _refuse(question: Question) -> str:
    raise ImportRefused(f"the file does not tell the {question.text}; say it with {question.option}")


def _prompt(question: Question) -> str:
    kind = click.Choice(question.choices) if question.choices else None
    answer: str = click.prompt(question.text, type=kind, err=True)
    return answer


def _tell(imported: Imported, config: Config) -> None:
    click.echo(f"{imported.name} {imported.version}: {imported.kind}, variants {', '.join(imported.variants)}")
    click.echo(f"  in {imported.folder}, golden cases {', '.join(imported.golden)}")
    for line in imported.assumed:
        click.echo(f"  taken as usual: {line}")
    served = imported.folder.parent.parent == Path(config.data_dir) / "models"
    where = "" if served else f" --models {imported.folder.parent.parent}"
    example = imported.folder / imported.golden[0]
    body = f"--json @{example}" if imported.kind == "tensor" else f"-F file=@{example}"
    click.echo("Serve it, and ask it:")
    click.echo(f"  appliance serve{where}")
    click.echo(f"  curl {body} http://127.0.0.1:8080/v1/predict/{imported.name}")


def _tell_report(report: Report) -> None:
    click.echo(f"{report.model}, variant {report.variant}")
    rows = [("STEP", "", "FOUND")]
    rows += [(step.name, "agrees" if step.ok else "DIFFERS", step.found) for step in report.steps]
    options.print_table(rows)
    if report.advice:
        click.echo(report.advice)
