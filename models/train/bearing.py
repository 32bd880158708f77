"""Train `bearing`: three-axis vibration to a fault class and an anomaly score, on simulated machines.

Run from the repository root as `python -m models.train.bearing`; writes models/bearing/1. Machines are drawn by seed:
those of training, of validation (thresholds), of the test and of the golden cases are four sets without overlap, none
of which reaches `provisioning.vibration.UNSEEN_SEED_MIN`, where the demo's machines begin.

The network has two branches over the same standardised spectra. The classifier is a small convolutional net that saw
every condition in LABELS. The anomaly branch is an autoencoder that saw normal machines alone: what rises above its
reconstruction is squared and averaged, once over the envelope spectra and once over the plain ones, and the larger of
the two is put through a sigmoid such that the 99.5th percentile of normal validation windows falls on 0.5.
"""

import json
import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import keras  # type: ignore[import-not-found]
import numpy as np
import numpy.typing as npt
from keras import layers, ops
from sklearn.metrics import f1_score, roc_auc_score  # type: ignore[import-not-found]
from threadpoolctl import threadpool_limits  # type: ignore[import-not-found]

from appliance.core.prediction import ClassScore, Prediction
from appliance.core.verdict import VerdictRule, judge
from appliance.core.waveform import prepare_window
from models.train import common
from provisioning.vibration import CONDITIONS, RATE_HZ, SEVERITIES_G, Condition, Machine

FOLDER = Path("models/bearing/1")
SEED = 20
SIZE = 2048
TRANSFORM = "envelope_spectrum"
LABELS: tuple[Condition, ...] = ("normal", "inner_race", "outer_race", "ball")
UNKNOWN: tuple[Condition, ...] = ("imbalance", "looseness", "cage")

TRAIN_SEED, VALIDATION_SEED, TEST_SEED, GOLDEN_SEED = 0, 100_000, 200_000, 250_000
TRAIN_MACHINES, VALIDATION_MACHINES = 8_000, 3_000
TEST_NORMAL_MACHINES, TEST_FAULT_MACHINES, TEST_UNKNOWN_MACHINES = 600, 120, 60
WINDOWS_PER_MACHINE = 3
TEST_WINDOWS_PER_MACHINE = 5
TRAIN_SEVERITY_G = (0.18, 1.6)

EPOCHS, AUTOENCODER_EPOCHS, BATCH = 10, 20, 64
PLAIN_CHANNELS, BANDS = 3, 3
NORMAL_PASSES = 0.995
RULE = VerdictRule(
    classes={label: "ok" if label == "normal" else "ng" for label in LABELS},
    class_score_min=0.6,
    score_review_min=0.5,
    score_ng_min=0.9,
)
SCORE_EDGE = 0.5
VARIANTS = {"openvino-f32": common.run_openvino, "tflite-int8": common.run_tflite}
TOLERANCES = {"openvino-f32": 0.01, "tflite-int8": 0.15}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """One machine to be recorded."""

    seed: int
    condition: Condition
    severity_g: float
    windows: int


@dataclass(frozen=True)
class Windows:
    """Recorded windows, one row each: spectra (n, bins, 12), the baseline's features (n, 4), what the machine had."""

    spectra: Floats
    features: Floats
    condition: npt.NDArray[np.int64]
    severity_g: npt.NDArray[np.float64]

    def where(self, mask: npt.NDArray[np.bool_]) -> "Windows":
        return Windows(*(getattr(self, field.name)[mask] for field in fields(self)))

    def of(self, condition: Condition, severity_g: float | None = None) -> npt.NDArray[np.bool_]:
        mask: npt.NDArray[np.bool_] = self.condition == CONDITIONS.index(condition)
        return mask if severity_g is None else mask & (self.severity_g == severity_g)


def main() -> None:
    started_s = time.monotonic()
    common.make_deterministic(SEED)
    # Before anything runs in TensorFlow, whose threads do not survive the fork.
    train, validation, test = record(training_jobs()), record(validation_jobs()), record(test_jobs())
    print(f"recorded after {time.monotonic() - started_s:.0f} s")
    model = train_network(train, validation)
    print(f"trained after {time.monotonic() - started_s:.0f} s")
    common.export_openvino(model, FOLDER)
    tflite_tensors = common.export_tflite(model, FOLDER, representative(train))
    metrics = measure(test, Baseline.fit(train))
    cases = golden_cases()
    common.write_manifest(FOLDER, manifest(tflite_tensors, cases))
    common.write_metrics(FOLDER, metrics)
    write_card(metrics)
    print(json.dumps(metrics, indent=2))
    print(f"done after {time.monotonic() - started_s:.0f} s")


# Machines and windows


def training_jobs() -> list[Job]:
    return _drawn_jobs(TRAIN_SEED, TRAIN_MACHINES, ("normal", "inner_race", "outer_race", "ball", "normal"))


def validation_jobs() -> list[Job]:
    return _drawn_jobs(VALIDATION_SEED, VALIDATION_MACHINES, ("normal", "inner_race", "outer_race", "ball", "normal"))


def test_jobs() -> list[Job]:
    jobs: list[tuple[Condition, float]] = [("normal", SEVERITIES_G["moderate"])] * TEST_NORMAL_MACHINES
    for severity_g in SEVERITIES_G.values():
        jobs += [(label, severity_g) for label in LABELS[1:] for _ in range(TEST_FAULT_MACHINES)]
        jobs += [(condition, severity_g) for condition in UNKNOWN for _ in range(TEST_UNKNOWN_MACHINES)]
    return [Job(TEST_SEED + i, condition, s, TEST_WINDOWS_PER_MACHINE) for i, (condition, s) in enumerate(jobs)]


def _drawn_jobs(first_seed: int, machines: int, conditions: Sequence[Condition]) -> list[Job]:
    """Conditions in turn, severities log-uniform."""
    draw = np.random.default_rng(first_seed)
    lowest_g, highest_g = TRAIN_SEVERITY_G
    severities_g = np.exp(draw.uniform(math.log(lowest_g), math.log(highest_g), machines))
    return [
        Job(first_seed + i, conditions[i % len(conditions)], float(severities_g[i]), WINDOWS_PER_MACHINE)
        for i in range(machines)
    ]


def record(jobs: Sequence[Job]) -> Windows:
    fork = multiprocessing.get_context("fork")
    # One thread each: two processes keep two cores busy, and more threads only get in each other's way.
    with ProcessPoolExecutor(2, mp_context=fork, initializer=threadpool_limits, initargs=(1,)) as pool:
        parts = list(pool.map(_record_machine, jobs, chunksize=32))
    return Windows(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Windows)))


def _record_machine(job: Job) -> Windows:
    machine = Machine(job.seed, job.condition, job.severity_g)
    windows = [as_sent(machine.read(SIZE)) for _ in range(job.windows)]
    spectra = np.concatenate([prepare_window(window, TRANSFORM, RATE_HZ) for window in windows])
    return Windows(
        spectra,
        np.stack([baseline_features(window, lines, machine) for window, lines in zip(windows, spectra, strict=True)]),
        np.full(job.windows, CONDITIONS.index(job.condition)),
        np.full(job.windows, job.severity_g),
    )


def as_sent(window: Floats) -> Floats:
    """A window as it arrives in JSON, rounded to a tenth of a milli-g."""
    return np.round(window, 4)


# The network


def train_network(train: Windows, validation: Windows) -> keras.Model:
    """spectra (batch, bins, 12) -> probabilities (batch, labels) and anomaly (batch, 1)."""
    normal = train.where(train.of("normal")).spectra
    quiet = validation.where(validation.of("normal")).spectra
    spectra = keras.Input(normal.shape[1:], name="spectra")
    standardised = layers.Normalization(axis=(1, 2), mean=normal.mean(axis=0), variance=normal.var(axis=0))(spectra)

    logits, last = classifier(standardised)
    _fit_classifier(keras.Model(spectra, logits), train)
    _favour_normal(keras.Model(spectra, logits), last, quiet)

    parts = keras.Model(spectra, gather_parts(standardised))
    autoencoder = build_autoencoder(parts.output_shape[1:])
    _fit_autoencoder(autoencoder, parts, normal)
    gathered = parts(spectra)
    rise = ops.relu(gathered - autoencoder(gathered))
    return keras.Model(
        spectra,
        {
            "probabilities": layers.Softmax(name="probabilities")(logits),
            "anomaly": _anomaly(spectra, rise, quiet),
        },
    )


def classifier(standardised: Any) -> tuple[Any, Any]:
    """Logits, and the layer that gives them."""
    x = standardised
    for filters, width, stride in ((24, 1, 1), (24, 5, 2), (32, 5, 2)):
        x = layers.Conv1D(filters, width, strides=stride, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    x = layers.Dropout(0.3)(_row(x))
    x = _dense(96, "relu")(x)
    x = layers.Dropout(0.3)(x)
    last = _dense(len(LABELS))
    return layers.Flatten()(last(x)), last


def gather_parts(standardised: Any) -> Any:
    """Mean of the plain spectra and mean of the envelope spectra, (batch, bins, 2): noise averages out, lines stay."""
    channels = standardised.shape[-1]
    weights = np.zeros((1, channels, 2), np.float32)
    weights[0, :PLAIN_CHANNELS, 0] = 1.0 / PLAIN_CHANNELS
    # The bands are nearly independent of each other and the axes are not: scaled so that the deviation is about one.
    weights[0, PLAIN_CHANNELS:, 1] = np.sqrt(BANDS) / (channels - PLAIN_CHANNELS)
    return _fixed(layers.Conv1D(2, 1, use_bias=False), weights)(standardised)


def build_autoencoder(shape: tuple[int, ...]) -> keras.Model:
    parts = keras.Input(shape)
    x = _row(parts)
    x = _dense(96, "relu")(x)
    x = _dense(24)(x)
    x = _dense(96, "relu")(x)
    x = _dense(int(np.prod(shape)))(x)
    return keras.Model(parts, layers.Reshape(shape)(x))


def _fit_classifier(model: keras.Model, train: Windows) -> None:
    batches = _Shuffled(train.spectra, train.condition)
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, EPOCHS * len(batches))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-3), loss)
    model.fit(batches, epochs=EPOCHS, verbose=0)


def _favour_normal(model: keras.Model, last: Any, quiet: Floats) -> None:
    """Raise the logit of `normal` until no more than 1 - NORMAL_PASSES of the normal windows look like a fault."""
    logits = model.predict(quiet, verbose=0)
    lead = np.quantile(logits[:, 1:].max(axis=1) - logits[:, 0], NORMAL_PASSES)
    kernel, bias = last.get_weights()
    bias[0] += max(0.0, float(lead))
    last.set_weights([kernel, bias])


def _fit_autoencoder(autoencoder: keras.Model, parts: keras.Model, normal: Floats) -> None:
    gathered = parts.predict(normal, verbose=0)
    autoencoder.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-3), "mse")
    autoencoder.fit(gathered, gathered, epochs=AUTOENCODER_EPOCHS, batch_size=BATCH, verbose=0)


def _anomaly(spectra: Any, rise: Any, quiet: Floats) -> Any:
    """Square and average the rise, (batch, bins, 2), over the bins, take the worse part, scale by normal windows."""
    energy = keras.Model(spectra, rise).predict(quiet, verbose=0)
    energy = np.mean(energy**2, axis=1)
    part_edge = np.quantile(energy, NORMAL_PASSES, axis=0)
    worst = (energy / part_edge).max(axis=1)
    edge, middle = np.quantile(worst, NORMAL_PASSES), np.median(worst)
    # A score of 1 is the edge of the normal. In int8 the mean is taken by a dense layer, whose sums are exact, and is
    # capped at three times the edge, so that the 256 steps lie where the decision falls.
    bins = rise.shape[1]
    weights = np.zeros((1, bins, 2, 2), np.float32)
    for part in range(2):
        weights[0, :, part, part] = 2.0 / (bins * part_edge[part] * edge)
    averages = _fixed(layers.Conv1D(2, 1, use_bias=False, activation="relu6"), weights.reshape(1, bins * 2, 2))
    score = ops.max(averages(_row(rise * rise)), axis=-1)
    # The middle of the normal windows comes to lie at 0.1.
    steepness = float(np.log(9.0) / (1.0 - middle / edge))
    return layers.Activation("sigmoid", name="anomaly")(score * (steepness / 2.0) - steepness)


def _row(x: Any) -> Any:
    return layers.Reshape((1, int(np.prod(x.shape[1:]))))(x)


def _dense(units: int, activation: str | None = None) -> Any:
    """A dense layer over (batch, 1, n) as a convolution, which TFLite 2.14 knows with a scale per channel."""
    return layers.Conv1D(units, 1, activation=activation)


def _fixed(layer: Any, kernel: Floats) -> Any:
    layer.build((None, None, kernel.shape[1]))
    layer.set_weights([kernel])
    layer.trainable = False
    return layer


class _Shuffled(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches in a new order each epoch, with axes and bands exchanged at random: which is which says nothing."""

    def __init__(self, spectra: Floats, labels: npt.NDArray[np.int64]) -> None:
        super().__init__()
        self._spectra, self._labels = spectra, labels
        self._draw = np.random.default_rng(SEED)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self._spectra) // BATCH

    def __getitem__(self, index: int) -> tuple[Floats, npt.NDArray[np.int64]]:
        rows = self._order[index * BATCH : (index + 1) * BATCH]
        groups = self._spectra[rows].reshape(BATCH, -1, 1 + BANDS, PLAIN_CHANNELS)
        bands = np.concatenate([[0], 1 + self._draw.permutation(BANDS)])
        mixed = groups[:, :, bands][..., self._draw.permutation(PLAIN_CHANNELS)]
        return mixed.reshape(self._spectra[rows].shape), self._labels[rows]

    def on_epoch_end(self) -> None:
        self._order = self._draw.permutation(len(self._spectra))


def representative(train: Windows) -> Iterator[dict[str, Floats]]:
    for row in np.random.default_rng(SEED).choice(len(train.spectra), 500, replace=False):
        yield {"spectra": train.spectra[row : row + 1]}


# The baseline: kurtosis and lines of the envelope spectrum, with thresholds


def baseline_features(window: Floats, spectra: Floats, machine: Machine) -> Floats:
    """Kurtosis, and strength of the lines of outer race, inner race and ball in the envelope spectrum, (4,).

    Kurtosis is that of the sharpest axis. A line's strength is the mean over the fault's first two harmonics of the
    highest depth within 4% of where it belongs, over the median depth. Speed and geometry of the machine are given, as
    an analyst would have them from tachometer and data sheet; the network has to do without.
    """
    centred = window - window.mean(axis=0)
    kurtosis = (centred**4).mean(axis=0) / (centred**2).mean(axis=0) ** 2
    depth = (10.0 ** spectra[:, PLAIN_CHANNELS:]).mean(axis=1)
    bin_hz = RATE_HZ / SIZE
    bins_hz = bin_hz * np.arange(1, len(depth) + 1)

    def strength(order: float) -> float:
        places_hz = machine.speed_hz * order * np.array([1.0, 2.0])
        near = [np.abs(bins_hz - place_hz) <= max(bin_hz, 0.04 * place_hz) for place_hz in places_hz]
        return float(np.mean([depth[lines].max() for lines in near if lines.any()]) / np.median(depth))

    bearing = machine.bearing
    lines = [strength(order) for order in (bearing.bpfi, bearing.bpfo, 2.0 * bearing.bsf)]
    return np.array([kurtosis.max(), *lines], np.float32)


@dataclass(frozen=True)
class Baseline:
    """Limits of the four features; the first is the kurtosis, the others stand in the order of the faults in LABELS."""

    limits: Floats

    @classmethod
    def fit(cls, train: Windows) -> "Baseline":
        """Limits that one normal window in 500 passes, each."""
        return cls(np.quantile(train.features[train.of("normal")], 0.998, axis=0))

    def judge(self, windows: Windows) -> tuple[npt.NDArray[np.int64], Floats]:
        """Class (n,) and score (n,), of which 1 is the limit."""
        excess = windows.features / self.limits
        score = excess.max(axis=1)
        return np.where(score > 1.0, 1 + excess[:, 1:].argmax(axis=1), 0), score


# Measuring


def measure(test: Windows, baseline: Baseline) -> dict[str, Any]:
    """Metrics of each variant and of the baseline on machines that training never saw."""
    metrics: dict[str, Any] = {"windows": len(test.spectra), "normal_windows": int(test.of("normal").sum())}
    for name, run in VARIANTS.items():
        outputs = run(FOLDER, {"spectra": test.spectra})
        probabilities, anomaly = outputs["probabilities"], outputs["anomaly"][:, 0]
        verdicts = np.array([verdict(*case) for case in zip(probabilities, anomaly, strict=True)])
        metrics[name] = {
            **_class_metrics(test, probabilities.argmax(axis=1)),
            **_score_metrics(test, anomaly, SCORE_EDGE),
            "verdicts": {
                kind: {v: float((verdicts[_usual(test, kind)] == v).mean()) for v in ("ok", "review", "ng")}
                for kind in CONDITIONS
            },
        }
    classes, score = baseline.judge(test)
    metrics["baseline"] = {**_class_metrics(test, classes), **_score_metrics(test, score, 1.0)}
    return metrics


def verdict(probabilities: Floats, anomaly: float) -> str:
    """What the appliance says about one window."""
    order = np.argsort(-probabilities)
    classes = tuple(ClassScore(LABELS[i], float(probabilities[i])) for i in order)
    return judge(Prediction(classes=classes, score=float(anomaly)), RULE)


def _class_metrics(test: Windows, classes: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy, macro F1 and recalls per severity; each class weighs the same in all of them."""
    result: dict[str, Any] = {"false_alarms_class": float((classes[test.of("normal")] != 0).mean())}
    for severity, severity_g in SEVERITIES_G.items():
        masks = [test.of("normal"), *(test.of(label, severity_g) for label in LABELS[1:])]
        recalls = {
            label: float((classes[m] == i).mean()) for i, (label, m) in enumerate(zip(LABELS, masks, strict=True))
        }
        truth = np.concatenate([np.full(m.sum(), i) for i, m in enumerate(masks)])
        weights = np.concatenate([np.full(m.sum(), 1.0 / m.sum()) for m in masks])
        guessed = np.concatenate([classes[m] for m in masks])
        result[severity] = {
            "accuracy": float(np.mean(list(recalls.values()))),
            "macro_f1": float(f1_score(truth, guessed, average="macro", sample_weight=weights)),
            "recall": recalls,
        }
    return result


def _score_metrics(test: Windows, score: Floats, edge: float) -> dict[str, Any]:
    """Area under the ROC of each fault against normal, and the share of its windows at or above the edge."""
    quiet = score[test.of("normal")]
    result: dict[str, Any] = {"false_alarms_score": float((quiet >= edge).mean()), "auroc": {}, "flagged": {}}
    for severity, severity_g in SEVERITIES_G.items():
        loud = {condition: score[test.of(condition, severity_g)] for condition in CONDITIONS[1:]}
        result["auroc"][severity] = {condition: _auroc(quiet, s) for condition, s in loud.items()}
        result["flagged"][severity] = {condition: float((s >= edge).mean()) for condition, s in loud.items()}
    return result


def _auroc(quiet: Floats, loud: Floats) -> float:
    return float(roc_auc_score(np.repeat([0, 1], [len(quiet), len(loud)]), np.concatenate([quiet, loud])))


def _usual(test: Windows, condition: Condition) -> npt.NDArray[np.bool_]:
    """Normal windows, or those of a fault of moderate severity."""
    return test.of(condition, None if condition == "normal" else SEVERITIES_G["moderate"])


# What goes beside the network


def golden_cases() -> list[dict[str, Any]]:
    """One window per label, of the first machine that both variants judge as they should."""
    return [_golden_case(label) for label in LABELS]


def _golden_case(label: Condition) -> dict[str, Any]:
    wanted = "ok" if label == "normal" else "ng"
    for seed in range(GOLDEN_SEED, GOLDEN_SEED + 100):
        window = as_sent(Machine(seed, label).read(SIZE))
        inputs = {"spectra": prepare_window(window, TRANSFORM, RATE_HZ)}
        found = {name: run(FOLDER, inputs) for name, run in VARIANTS.items()}
        scores = {name: float(outputs["anomaly"][0, 0]) for name, outputs in found.items()}
        told = {name: outputs["probabilities"][0] for name, outputs in found.items()}
        if all(LABELS[told[n].argmax()] == label and verdict(told[n], scores[n]) == wanted for n in found):
            break
    else:
        raise RuntimeError(f"none of 100 machines with {label} is judged {wanted}: the network did not learn")
    file = f"golden/{label}.json"
    (FOLDER / "golden").mkdir(parents=True, exist_ok=True)
    # Adding zero turns -0.0 into 0.0.
    rows = [[round(float(value), 4) + 0.0 for value in row] for row in window]
    (FOLDER / file).write_text(json.dumps({"rows": rows}, separators=(",", ":")) + "\n")
    score = scores["openvino-f32"]
    return common.golden(FOLDER, file, "application/json", label, score, wanted, TOLERANCES)


def manifest(tflite_tensors: dict[str, str], cases: list[dict[str, Any]]) -> dict[str, Any]:
    bins, channels = prepare_window(np.zeros((SIZE, 3), np.float32), TRANSFORM, RATE_HZ).shape[1:]
    return {
        "schema": 1,
        "name": "bearing",
        "version": "1",
        "title": "Three-axis vibration of a rolling bearing: class of fault and anomaly score",
        "licence": "CC0-1.0",
        "provenance": "trained by models/train/bearing.py on machines simulated by provisioning/vibration.py alone",
        "labels": list(LABELS),
        "inputs": [{"name": "spectra", "dtype": "float32", "shape": [-1, bins, channels]}],
        "outputs": [
            {"name": "probabilities", "dtype": "float32", "shape": [-1, len(LABELS)]},
            {"name": "anomaly", "dtype": "float32", "shape": [-1, 1]},
        ],
        "preprocess": {
            "kind": "window",
            "channels": ["x", "y", "z"],
            "unit": "g",
            "rate_hz": RATE_HZ,
            "size": SIZE,
            "transform": TRANSFORM,
        },
        "postprocess": {
            "classes": "probabilities",
            "score": "anomaly",
            "normal_label": "normal",
            "score_unit": "anomaly, 0..1; 0.5 is passed by one normal window in 200",
        },
        "verdict": {
            "class_score_min": RULE.class_score_min,
            "score_review_min": RULE.score_review_min,
            "score_ng_min": RULE.score_ng_min,
            "classes": RULE.classes,
        },
        "variants": common.variants(FOLDER, tflite_tensors),
        "golden": cases,
    }


def write_card(metrics: dict[str, Any]) -> None:
    """README.md: the prose below with the figures just measured."""
    card = CARD.format(
        classes=_table(
            ["", *(f"{label}, {severity}" for severity in SEVERITIES_G for label in ("accuracy", "macro F1"))],
            {
                name: [metrics[name][severity][key] for severity in SEVERITIES_G for key in ("accuracy", "macro_f1")]
                for name in JUDGES
            },
        ),
        recalls=_table(
            ["recall", *(f"{label}, {severity}" for severity in SEVERITIES_G for label in LABELS[1:])],
            {
                name: [metrics[name][severity]["recall"][label] for severity in SEVERITIES_G for label in LABELS[1:]]
                for name in JUDGES
            },
        ),
        alarms=_table(
            ["false alarms", "class is not normal", "score at its limit"],
            {name: [metrics[name]["false_alarms_class"], metrics[name]["false_alarms_score"]] for name in JUDGES},
        ),
        auroc="\n\n".join(
            _table(
                [f"AUROC, {severity}", *CONDITIONS[1:]],
                {name: list(metrics[name]["auroc"][severity].values()) for name in JUDGES},
            )
            for severity in SEVERITIES_G
        ),
        verdicts="\n\n".join(
            _table(
                [name, "ok", "review", "ng"],
                {kind: list(shares.values()) for kind, shares in metrics[name]["verdicts"].items()},
            )
            for name in VARIANTS
        ),
        limits=_table(["peak of a blow", *SEVERITIES_G], {"g": list(SEVERITIES_G.values())}, form="{:g}"),
        machines=f"{TRAIN_MACHINES:,} for training, {VALIDATION_MACHINES:,} for thresholds, "
        f"{metrics['windows'] // TEST_WINDOWS_PER_MACHINE:,} for the test",
        normal=metrics["normal_windows"],
        windows=metrics["windows"],
    )
    (FOLDER / "README.md").write_text(card)


def _table(head: Sequence[str], rows: dict[str, list[float]], form: str = "{:.3f}") -> str:
    lines = [head, ["---"] * len(head), *([name, *map(form.format, values)] for name, values in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


JUDGES = (*VARIANTS, "baseline")

CARD = """\
# bearing, version 1

Judges a quarter of a second of three-axis vibration from a machine with a rolling bearing: which of `normal`,
`inner_race`, `outer_race`, `ball` it is, and how far it is from anything normal (`anomaly`, 0..1; 0.5 is passed by one
normal window in 200).

**Input.** 2048 samples of x, y, z in g at 8192 Hz. At the slowest shaft it was trained for, 25 turns a second, that is
six turns and at least fifteen blows of a flawed race; the fastest makes 50. Neither speed nor geometry is given.
Preprocessing `envelope_spectrum` makes of it the spectrum of each axis and the squared-envelope spectra of three bands
up to 640 Hz.

**Network.** Two branches over the same spectra: a convolutional classifier that saw all four classes, and an
autoencoder that saw normal machines alone and scores what rises above its reconstruction. So the score also answers to
faults that no class is named after; the figures for imbalance, looseness and a worn cage, which training never saw,
show how far.

**Verdict.** A fault class or a score of 0.9 and up is `ng`; a score of 0.5 and up, or a class less sure than 0.6, is
`review`.

## Data
All of it is simulated by `provisioning/vibration.py` (formulas and sources stand there: Randall & Antoni 2011, McFadden
& Smith 1984), so it is free of rights (CC0). Every machine has its own geometry (7 to 9 balls, ball over pitch diameter
0.20 to 0.27, contact angle 0 to 15 degrees), speed and its wandering, slip, two resonances with their damping, gains of
the axes, shaft and pump harmonics, noise (0.03 to 0.11 g RMS) and stray knocks. The split is by machine:
{machines}.
Seeds below 300,000 belong to these and to the golden cases; the demo's machines begin there.

How hard a flaw strikes, at full load and 37.5 turns a second:

{limits}

Training drew severities from 0.18 to 1.6 g. A weak fault often lies below the noise of its machine.

## Figures
On {windows:,} windows of machines that training never saw, {normal:,} of them normal. The baseline is kurtosis and the
height of the bearing's lines in the envelope spectrum, each with a limit that one normal training window in 500
passes; **it is told the speed and the geometry of each machine, which the network is not.**
Each class weighs the same; `normal` is the same set at each severity.

{classes}

{recalls}

{alarms}

Area under the ROC of the anomaly score, normal against each fault. Imbalance, looseness and cage are unknown to the
training. Where the baseline's figure is the higher one, it is the better detector: on weak and moderate bearing faults
it is ahead of the score, since it is told where to look.

{auroc}

Verdicts, share of windows, faults of moderate severity:

{verdicts}

The classes know only what they were taught: when a fault is none of theirs, an `ng` may be right and the name of the
fault is wrong. Looseness is mostly called `inner_race`, a worn cage `ball`, and imbalance passes as `normal`.

Made by `python -m models.train.bearing` from the root of the repository, with `models/train/requirements.txt`.

## What it is not for
- Real machines without a trial of their own: it has heard simulated ones alone. Run it in shadow beside what you trust,
  and train it again with your own recordings.
- Speeds outside 25 to 50 turns a second, other rates or other units: the samples must be g at 8192 Hz.
- Gears, belts, plain bearings, or several bearings at different speeds on one sensor.
- Early warning: a weak fault is missed in half of the windows and more. Watch the trend over many windows.
- Imbalance: most of it is judged ok, since healthy machines differ too; a limit on the first harmonic of the machine
  at hand does better.
- Protection of people.
"""


if __name__ == "__main__":
    main()
