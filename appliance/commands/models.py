"""`appliance models`: what is installed, bringing one's own, comparing it with its author's answers, tuning it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from appliance.commands import options
from appliance.commands.signing import KEY_HELP, private_key, sign_command
from appliance.config import Config, load
from appliance.errors import ImportRefused, Unsigned

if TYPE_CHECKING:
    from appliance.authoring.check import Report
    from appliance.authoring.importer import Imported, Question
    from appliance.repository import ModelVersion
    from appliance.state import State
    from appliance.versions import VersionReport

KINDS = ("classifier", "yolov8", "yolov5", "yolov10", "tensor")


@click.group()
def models() -> None:
    """See what is installed, take an update back, bring a model of your own, check it, tune it."""


@models.command("list")
@options.place
@options.as_json
def list_models(path: Path | None, data_dir: str | None, models_dir: str | None, as_json: bool) -> None:
    """List every version: its slot, where it came from, who signed it, how its tests ended, the state of its files.

    It looks at the disk, whether the box runs or not.

    Exit codes: 0 all is well, 1 a version cannot be used.
    """
    from appliance.repository import model_roots
    from appliance.trust import trust_of
    from appliance.versions import versions

    config = load(path, data_dir=data_dir, models_dir=models_dir)
    state = _state(config)
    try:
        listed = versions(model_roots(config), state, trust_of(config))
    finally:
        if state is not None:
            state.close()
    if as_json:
        click.echo(msgspec.json.encode(listed))
    elif listed:
        rows = [("NAME", "VERSION", "SLOT", "ORIGIN", "SIGNED BY", "SELF-TEST", "TRIAL", "VARIANTS", "DIGEST", "FILES")]
        options.print_table([*rows, *map(_row, listed)])
    else:
        click.echo("no model is installed; bring one: appliance models import FILE")
    if any(each.state != "ok" for each in listed):
        raise SystemExit(1)


@models.command("roll-back")
@click.argument("name", required=False)
@click.option(
    "--wait", type=click.FloatRange(0), default=150.0, show_default=True, help="seconds, for the box's answer"
)
@options.place
@options.as_json
def roll_back_command(
    name: str | None, wait: float, path: Path | None, data_dir: str | None, models_dir: str | None, as_json: bool
) -> None:
    """Serve the version before: of model NAME, or of everything that the last update brought.

    What was promoted together goes back together, and does not come again by itself. A box that runs does it at once;
    one that does not serves the version before when it is started.

    Exit codes: 0 done, 1 there is nothing to go back to or the box refused, 2 wrong option or configuration.
    """
    from appliance.orders import roll_back

    config = load(path, data_dir=data_dir, models_dir=models_dir)
    done = roll_back(config, name, f"command:{options.user()}", wait)
    if as_json:
        click.echo(msgspec.json.encode(done))
    elif done.running:
        click.echo(done.text)
    else:
        click.echo(f"{done.text}; the box does not run, and serves so when it is started")


@models.command("gc")
@click.option("--dry-run", is_flag=True, help="only say what would go")
@options.place
@options.as_json
def gc_command(dry_run: bool, path: Path | None, data_dir: str | None, models_dir: str | None, as_json: bool) -> None:
    """Remove versions of updates that are neither current, nor previous, nor on trial.

    What you imported yourself stays.
    """
    from appliance.unused import find_unused, remove, remove_left_over

    state = _state(load(path, data_dir=data_dir, models_dir=models_dir))
    try:
        found = [] if state is None else find_unused(state)
        if state is not None and not dry_run:
            remove(found)
            remove_left_over(state)
    finally:
        if state is not None:
            state.close()
    if as_json:
        click.echo(msgspec.json.encode({"removed": not dry_run, "versions": found}))
        return
    for each in found:
        click.echo(f"{each.name} {each.version}: {each.bytes / 1e6:.1f} MB {'would go' if dry_run else 'removed'}")
    if not found:
        click.echo("every version of an update is in use")


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
@click.option("--key", type=click.Path(path_type=Path), help=f"sign it: {KEY_HELP}")
@click.option("--yes", is_flag=True, help="ask nothing: what has a usual value gets it, anything else is an error")
@options.place
@options.as_json
def import_command(
    files: tuple[Path, ...],
    labels: str | None,
    labels_file: Path | None,
    into: Path | None,
    key: Path | None,
    yes: bool,
    path: Path | None,
    data_dir: str | None,
    models_dir: str | None,
    as_json: bool,
    **said: Any,
) -> None:
    """Bundle ONNX, TFLite or OpenVINO (.xml with its .bin) FILES of one model as a new version.

    What the files do not tell is asked on a terminal; without one it is an error that names the option. Files are read
    and tried in a process of their own, and the version appears only when it works. A provisioned box runs it only with
    --key.

    Exit codes: 0 done, 1 refused, 2 wrong option or configuration.
    """
    from appliance.authoring.importer import Options, import_model

    config = load(path, data_dir=data_dir, models_dir=models_dir)
    if into is None:
        into = Path(models_dir) if models_dir else Path(config.data_dir) / "models"
        if config.updates.root is not None and key is None:
            raise Unsigned("this box runs signed models only; give --key the site's private key")
    private = None if key is None else private_key(key, config)
    try:
        given = msgspec.convert(
            {**said, "labels": _labels(labels, labels_file), "into": into}, Options, dec_hook=lambda _, value: value
        )
    except msgspec.ValidationError as error:
        raise click.UsageError(f"{error}") from error
    imported = import_model(files, given, _refuse if yes or not sys.stdin.isatty() else _prompt, private)
    if as_json:
        click.echo(msgspec.json.encode(msgspec.to_builtins(imported, enc_hook=str)))
    else:
        _tell(imported, config)


models.add_command(sign_command)


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
    from appliance.trust import trust_of

    good, broken = scan(model_roots(config), trust_of(config))
    named = [each for each in good if each.manifest.name == name and version in (None, each.manifest.version)]
    if named:
        return max(named, key=lambda each: int(each.manifest.version))
    for each in broken:
        if each.name == name and version in (None, each.version):
            raise each.error
    asked = name if version is None else f"{name} {version}"
    known = sorted({each.manifest.name for each in good})
    raise ModelNotFound(f"there is no model {asked}; there are {', '.join(known) or 'none'}")


def _state(config: Config) -> State | None:
    """Without changing it; None before the first start of a box."""
    from appliance.state import State

    data_dir = Path(config.data_dir).absolute()
    return State(data_dir, read_only=True) if (data_dir / "state" / "state.db").exists() else None


def _row(each: VersionReport) -> tuple[str, ...]:
    signed_by = each.signed_by
    if isinstance(signed_by, dict):
        keys = ", ".join(str(key)[:8] for key in signed_by.get("keys", ()))
        signed_by = f"{signed_by.get('role', '?')} ({keys})"
    trial = "" if each.trial is None else each.trial.state
    if each.blocked is not None:
        trial = f"{trial}, blocked" if trial else "blocked"
    return (
        each.name,
        each.version,
        each.slot or "",
        each.origin,
        str(signed_by or "nobody"),
        _told_test(each.self_test),
        trial,
        ", ".join(each.variants),
        (each.digest or "")[:12],
        each.reason or each.state,
    )


def _told_test(test: Any) -> str:
    if not isinstance(test, dict):
        return ""
    if not test.get("passed"):
        return str(test.get("code") or "failed")
    return f"passed, {test['cases']} cases" if "cases" in test else "passed"


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
