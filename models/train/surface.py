"""Train, export and score `models/surface/1`: a picture of a surface to a class and a heat map of where.

Run from the repository's root: `python -m models.train.surface`. It takes the train region of the three photographs,
sets the bands of the verdict on their validation regions, and is scored on two kinds of held-out pictures: the test
regions of the same photographs, and each photograph in turn by a network that never saw any of it.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras  # type: ignore[import-not-found]
import numpy as np
import numpy.typing as npt
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from sklearn.linear_model import LogisticRegression  # type: ignore[import-not-found]
from sklearn.metrics import roc_auc_score  # type: ignore[import-not-found]
from sklearn.pipeline import make_pipeline  # type: ignore[import-not-found]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-not-found]

from appliance.core.manifest import ImagePreprocess
from appliance.core.prediction import ClassScore, Prediction
from appliance.core.preprocess import preprocess_image
from appliance.core.tensors import TensorSpec
from appliance.core.verdict import VerdictRule, judge
from models.train import common
from provisioning import textures

FOLDER = Path("models/surface/1")
SEED = 20
SIDE = 96
CELLS = 24
LABELS = textures.KINDS
# A cell of the heat map counts as defect when this share of its 4x4 pixels does.
CELL_SHARE_MIN = 0.2

STEPS = ImagePreprocess(colour="rgb", resize="stretch", mean=(127.5,) * 3, std=(127.5,) * 3)
IMAGE = TensorSpec("image", "float32", (-1, SIDE, SIDE, 3))
PROBABILITIES = TensorSpec("probabilities", "float32", (-1, len(LABELS)))
HEATMAP = TensorSpec("heatmap", "float32", (-1, CELLS, CELLS))

# (height, width) of the frames; the demo's camera sends 320x320 or 640x480.
SIZES = ((320, 320), (240, 320), (240, 240), (480, 640))
TRAIN_PER_KIND, VALIDATION_PER_KIND, TEST_PER_KIND = 400, 150, 200
# Pictures of the check set that the appliance measures its own choices on.
CHECK_PER_KIND = 60
EPOCHS, EPOCHS_HELD_OUT, BATCH, RATE = 16, 9, 32, 3e-3
# A false alarm stops a line: an error on a good picture weighs this much more than one on a defect.
GOOD_WEIGHT = 3.0
# A person looks when the class is unsure; the bands of the score come from the validation pictures.
CLASS_SCORE_MIN = 0.6
TOLERANCES = {"openvino-f32": 0.01, "tflite-int8": 0.15}

FIGURES = {
    "accuracy": "accuracy, four classes",
    "defect_auroc": "AUROC, good against defect",
    "pixel_auroc": "map: pixel AUROC",
    "iou": "map: IoU of cells at 0.5",
    "pointing": "map: highest cell hits",
    "false_alarm": "good parts not judged ok",
    "missed": "defective parts judged ok",
    "review": "parts sent to a person",
}

CARD = """# surface, version 1

Says whether a picture of a textured surface is good or shows a scratch, a hole or a stain, and where.

Input: a picture of any size, stretched to 96x96 RGB. Outputs: probabilities of good, scratch, hole and stain; a heat
map of 24x24 cells, 0 to 1. Score: the probability of a defect. A small convolutional network, trained from scratch;
variants: OpenVINO IR in float32, TFLite in int8 throughout.

## Verdict
A defect as the top class is ng; a top class below {rule.class_score_min} is review;
a score from {rule.score_review_min} on is review, from {rule.score_ng_min} on ng.

The bands come from good pictures of the validation regions, not from test pictures: the 99.5th percentile, held between
0.1 and 0.4, and the 99.9th, held between 0.5 and 0.9.

## Data
The photographs *brick*, *grass* and *gravel* that ship inside scikit-image (512x512, grey, CC0). Each is cut into
regions without a common pixel: rows 0-351 of columns 0-335 for training, rows 352-511 of these columns for validation,
columns 336-511 for tests. A frame is a turned, scaled rectangle that lies within one region, with its own contrast,
cast of colour, light, blur and grain; defects are drawn into it by `provisioning/textures.py`; it then passes through
JPEG of quality 80 to 95 at 240x240 to 640x480. Training: {train} frames a photograph; tests: {frames} a photograph.

**The defects are drawn, not photographed.** The figures say how well the network finds such drawings on pixels that it
has not seen; they say nothing of real scratches. After a first training, errors on validation and test regions were
looked at; scratches were then drawn longer and stronger, the view was widened, and errors on good pictures weighted.
So the figures of the test regions are a little hopeful; the weights and the bands come from no test pixel.

## What it is not for
Judging real parts: train on pictures of your own line for that. Not for surfaces unlike those above, defects below
about one hundredth of the picture's height, or decisions on people's safety.

## Figures
All in percent, on held-out pictures only. Baseline: logistic regression on texture statistics (colour moments, grey
percentiles, co-occurrence, local binary patterns); its map is the distance from the picture's median colour.
A cell counts as defect when a fifth of it is; the highest cell hits when it is such a cell or touches one."""

ALARMS = """### Good parts not judged ok, by texture
The network takes long straight blades of grass with a dark shadow beside them for scratches. The validation region of
*grass* holds a pair of them that most frames from there show, so its figure is the worst case; it was not trained away,
and the bands end at their limits because of it."""

Images = npt.NDArray[np.float32]
Targets = dict[str, npt.NDArray[Any]]
Outputs = Mapping[str, npt.NDArray[np.float32]]


class Pictures(NamedTuple):
    """images: (N, 96, 96, 3) as the network wants them; masks: (N, 96, 96) bool where the defect is; kinds: (N,) index
    of LABELS; statistics: (N, features) for the baseline.
    """

    images: Images
    masks: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.int64]
    statistics: npt.NDArray[np.float64]


def take(names: Sequence[textures.Texture], split: textures.Split, per_kind: int, seed: int) -> Pictures:
    """Frames of every texture and kind, published as JPEG and prepared as the appliance does it.

    Call before TensorFlow has worked: the frames are drawn by forked processes.
    """
    cases = [(name, label, split, number, seed) for name in names for label in LABELS for number in range(per_kind)]
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        images, masks, statistics = zip(*pool.map(_draw, cases, chunksize=50), strict=True)
    kinds = np.array([LABELS.index(label) for _, label, _, _, _ in cases])
    return Pictures(np.stack(images), np.stack(masks), kinds, np.stack(statistics))


def _draw(
    case: tuple[textures.Texture, textures.Kind, textures.Split, int, int],
) -> tuple[Images, npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    texture, label, split, number, seed = case
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, textures.TEXTURES.index(texture), LABELS.index(label), number])
    # Training makes do with the smaller frames, which take a third of the time to draw.
    sizes = SIZES[:-1] if split == "train" else SIZES
    image, mask = textures.frame(rng, texture, label, split, sizes[number % len(sizes)])
    small = cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    ready = prepare(textures.encode(rng, image))[0]
    return ready, small > 0.3, describe(ready)


def prepare(content: bytes) -> Images:
    """Bytes of a JPEG or PNG to (1, 96, 96, 3) float32, as the manifest says."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return preprocess_image(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8), STEPS, IMAGE)


def cells(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(N, 96, 96) to (N, 24, 24): the cells of the heat map that should be high."""
    step = SIDE // CELLS
    share = masks.reshape(-1, CELLS, step, CELLS, step).mean(axis=(2, 4))
    return np.asarray(share >= CELL_SHARE_MIN)


def build() -> keras.Model:
    """Down to 12x12 for context, back up to 24x24 for the map; the class is read from features pooled over both."""

    def convolve(tensor: Any, filters: int, strides: int = 1, size: int = 3) -> Any:
        tensor = keras.layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(tensor)
        return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(tensor))

    image = keras.Input(IMAGE.shape[1:], name="image")
    fine = convolve(convolve(convolve(image, 12, strides=2), 24, strides=2), 24)
    coarse = convolve(convolve(convolve(fine, 40, strides=2), 40), 40)
    upscaled = keras.layers.UpSampling2D(2)(convolve(coarse, 24, size=1))
    joined = convolve(keras.layers.Concatenate()([fine, upscaled]), 32)
    logits = keras.layers.Conv2D(1, 1, activation="sigmoid")(joined)
    # The mean over one channel drops that axis without a reshape, which would fix the batch in the TFLite file.
    heatmap = keras.layers.Identity(name="heatmap")(keras.ops.mean(logits, axis=-1))
    pooled = keras.layers.Concatenate()(
        [keras.layers.GlobalMaxPooling2D()(joined), keras.layers.GlobalMaxPooling2D()(coarse)]
    )
    pooled = keras.layers.Dropout(0.2, seed=SEED)(pooled)
    classes = keras.layers.Dense(len(LABELS), activation="softmax", name="probabilities")(pooled)
    return keras.Model(image, {"probabilities": classes, "heatmap": heatmap})


def locate_loss(truth: Any, found: Any) -> Any:
    """Cross-entropy of each cell plus the Dice loss of the batch, so that the few defect cells weigh enough."""
    entropy = keras.ops.mean(keras.losses.binary_crossentropy(truth, found))
    overlap = 2 * keras.ops.sum(truth * found) + 1
    return entropy + 0.5 * (1 - overlap / (keras.ops.sum(truth) + keras.ops.sum(found) + 1))


def fit(pictures: Pictures, epochs: int, seed: int) -> keras.Model:
    """Train from scratch; the same pictures and seed give the same weights."""
    keras.utils.set_random_seed(seed)
    model = build()
    steps = len(pictures.kinds) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(
        RATE / 10, (epochs - 2) * steps, warmup_target=RATE, warmup_steps=2 * steps
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-3),
        loss={"probabilities": keras.losses.SparseCategoricalCrossentropy(), "heatmap": locate_loss},
        jit_compile=False,
    )
    model.fit(_batches(pictures, seed), epochs=epochs, steps_per_epoch=steps, verbose=0)
    return model


def _batches(pictures: Pictures, seed: int) -> Iterator[tuple[Images, Targets, Targets]]:
    """Shuffled batches without end, each picture turned, mirrored, and recoloured anew."""
    rng = np.random.default_rng(seed)
    wanted = cells(pictures.masks).astype(np.float32)
    while True:
        order = rng.permutation(len(pictures.kinds))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            images, maps = pictures.images[rows], wanted[rows]
            for row in range(BATCH):
                turns, mirror = int(rng.integers(4)), -1 if rng.random() < 0.5 else 1
                images[row] = np.rot90(images[row], turns)[:, ::mirror, rng.permutation(3)]
                maps[row] = np.rot90(maps[row], turns)[:, ::mirror]
            gain = rng.uniform(0.85, 1.15, (BATCH, 1, 1, 1)) * rng.uniform(0.94, 1.06, (BATCH, 1, 1, 3))
            images = np.clip((images + 1) * gain - 1 + rng.uniform(-0.08, 0.08, (BATCH, 1, 1, 1)), -1, 1)
            kinds = pictures.kinds[rows]
            weights = {"probabilities": np.where(kinds == 0, GOOD_WEIGHT, 1.0), "heatmap": np.ones(BATCH)}
            yield images.astype(np.float32), {"probabilities": kinds, "heatmap": maps}, weights


def export(model: keras.Model, pictures: Pictures, folder: Path) -> dict[str, str]:
    """Write both variants; returns the names of the tensors in the TFLite file."""
    common.export_openvino(model, folder)
    chosen = np.random.default_rng(SEED).choice(len(pictures.kinds), 300, replace=False)
    return common.export_tflite(model, folder, ({"image": pictures.images[row : row + 1]} for row in chosen))


def run_variants(folder: Path, images: Images) -> dict[str, Outputs]:
    return {
        "openvino-f32": common.run_openvino(folder, {"image": images}),
        "tflite-int8": common.run_tflite(folder, {"image": images}),
    }


def describe(image: Images) -> npt.NDArray[np.float64]:
    """Texture statistics of a prepared picture (96, 96, 3), for the baseline; (features,).

    Mean, spread and skew of each colour, of its difference from grey and of the gradient; percentiles of grey;
    properties of the grey-level co-occurrence matrix at four distances (Haralick, 1973); histogram of uniform local
    binary patterns (Ojala, 2002).
    """
    pixels = np.clip(np.rint(image * 127.5 + 127.5), 0, 255).astype(np.uint8)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    chroma = pixels.astype(np.float32) - grey[..., None]
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    moments = []
    for plane in (*np.moveaxis(pixels.astype(np.float32), -1, 0), *np.moveaxis(chroma, -1, 0), gradient):
        centred, spread = plane - plane.mean(), plane.std()
        moments += [plane.mean(), spread, (centred * centred * centred).mean() / (spread**3 + 1e-6)]
    percentiles = np.percentile(grey, (0.5, 2, 5, 25, 75, 95, 98, 99.5))
    matrix = graycomatrix(grey // 8, (1, 2, 4, 8), (0, np.pi / 2), levels=32, symmetric=True, normed=True)  # type: ignore[no-untyped-call]
    names = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
    properties = [graycoprops(matrix, name).mean(axis=1) for name in names]  # type: ignore[no-untyped-call]
    patterns = local_binary_pattern(grey, 8, 1, "uniform")  # type: ignore[no-untyped-call]
    histogram = np.bincount(patterns.astype(int).ravel(), minlength=10)
    return np.concatenate([moments, percentiles, *properties, histogram / histogram.sum()])


def baseline(training: Pictures, tested: Pictures) -> npt.NDArray[np.float64]:
    """Probabilities of each class by logistic regression on the statistics; (N, 4)."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=3000))
    model.fit(training.statistics, training.kinds)
    return np.asarray(model.predict_proba(tested.statistics))


def score_classes(probabilities: npt.NDArray[Any], kinds: npt.NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, recall of each class, and the area under the ROC curve of good against defect; 0..1."""
    top = probabilities.argmax(axis=1)
    recalls = {f"recall_{label}": float((top[kinds == i] == i).mean()) for i, label in enumerate(LABELS)}
    auroc = float(roc_auc_score(kinds > 0, 1 - probabilities[:, 0]))
    return {"accuracy": float((top == kinds).mean()), "defect_auroc": auroc, **recalls}


def score_maps(maps: npt.NDArray[Any], pictures: Pictures) -> dict[str, float]:
    """How well the maps point at the defects; 0..1.

    pixel_auroc: each pixel of every picture, the map enlarged to 96x96.  iou: of the cells at 0.5 or more, mean over
    the pictures with a defect.  pointing: share of these whose highest cell is a defect cell or touches one.
    """
    large = np.stack([cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for each in maps])
    # Every 7th pixel is enough: the figure moves by less than 0.001.
    auroc = float(roc_auc_score(pictures.masks.ravel()[::7], large.ravel()[::7]))
    defects = pictures.kinds > 0
    wanted, found = cells(pictures.masks)[defects], maps[defects] >= 0.5
    union = (wanted | found).sum(axis=(1, 2))
    iou = (wanted & found).sum(axis=(1, 2)) / np.maximum(union, 1)
    highest = maps[defects].reshape(len(wanted), -1).argmax(axis=1)
    near = np.stack([cv2.dilate(each.astype(np.uint8), np.ones((3, 3), np.uint8)) for each in wanted])
    hits = near.reshape(len(wanted), -1)[np.arange(len(wanted)), highest] > 0
    return {"pixel_auroc": auroc, "iou": float(iou.mean()), "pointing": float(hits.mean())}


def naive_maps(images: Images) -> npt.NDArray[np.float32]:
    """The baseline's map: how far the colour of a cell is from the picture's median colour."""
    small = np.stack([cv2.resize(image, (CELLS, CELLS), interpolation=cv2.INTER_AREA) for image in images])
    distance = np.linalg.norm(small - np.median(small, axis=(1, 2), keepdims=True), axis=-1)
    return np.asarray(distance / distance.max(), np.float32)


def calibrate(folder: Path, validation: Pictures) -> VerdictRule:
    """Set the bands of the score on validation pictures, as the float32 variant in the folder scores them.

    Below the review band lie 99.5% of the good ones; it starts at 0.4 at the latest, since a class surer than
    CLASS_SCORE_MIN leaves no more. From the ng band on lie at most one in a thousand of the good.
    """
    good = 1 - common.run_openvino(folder, {"image": validation.images[validation.kinds == 0]})["probabilities"][:, 0]
    review = float(np.clip(np.quantile(good, 0.995), 0.1, 0.4))
    ng = float(np.clip(np.quantile(good, 0.999), 0.5, 0.9))
    return VerdictRule(
        classes={label: "ok" if label == "good" else "ng" for label in LABELS},
        class_score_min=CLASS_SCORE_MIN,
        score_review_min=round(review, 2),
        score_ng_min=round(ng, 2),
    )


def verdict(probabilities: npt.NDArray[Any], rule: VerdictRule) -> str:
    """What the appliance says about one picture."""
    order = np.argsort(-probabilities)
    classes = tuple(ClassScore(LABELS[i], float(probabilities[i])) for i in order)
    return judge(Prediction(classes=classes, score=float(1 - probabilities[0])), rule)


def score_verdicts(
    probabilities: npt.NDArray[Any], kinds: npt.NDArray[np.int64], rule: VerdictRule
) -> dict[str, float]:
    """Shares of the good pictures not judged ok, of the defective ones judged ok, and of all sent to a person; 0..1."""
    verdicts = np.array([verdict(row, rule) for row in probabilities])
    return {
        "false_alarm": float((verdicts[kinds == 0] != "ok").mean()),
        "missed": float((verdicts[kinds > 0] == "ok").mean()),
        "review": float((verdicts == "review").mean()),
    }


def false_alarms(parts: Mapping[textures.Texture, Pictures], rule: VerdictRule) -> dict[str, float]:
    """Share of each texture's good pictures that the float32 variant does not judge ok; 0..1."""
    shares = {}
    for name, part in parts.items():
        good = part.images[part.kinds == 0]
        rows = common.run_openvino(FOLDER, {"image": good})["probabilities"]
        shares[str(name)] = float(np.mean([verdict(row, rule) != "ok" for row in rows]))
    return shares


def score_all(
    training: Pictures, tested: Pictures, outputs: Mapping[str, Outputs], rule: VerdictRule
) -> dict[str, dict[str, float]]:
    """Every figure of every variant and of the baseline on one held-out set."""
    figures = {
        name: {
            **score_classes(found["probabilities"], tested.kinds),
            **score_maps(found["heatmap"], tested),
            **score_verdicts(found["probabilities"], tested.kinds, rule),
        }
        for name, found in outputs.items()
    }
    simple = score_classes(baseline(training, tested), tested.kinds)
    naive = score_maps(naive_maps(tested.images), tested)
    figures["baseline"] = {**simple, "pixel_auroc": naive["pixel_auroc"], "pointing": naive["pointing"]}
    return figures


def leave_one_out(
    training: Mapping[textures.Texture, Pictures],
    validation: Mapping[textures.Texture, Pictures],
    whole: Mapping[textures.Texture, Pictures],
) -> dict[str, dict[str, dict[str, float]]]:
    """For each photograph: train on the other two, calibrate on their validation regions, score on all of it."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for number, held in enumerate(textures.TEXTURES):
        others = [name for name in textures.TEXTURES if name != held]
        pictures = join([training[name] for name in others])
        model = fit(pictures, EPOCHS_HELD_OUT, SEED + 1 + number)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            export(model, pictures, folder)
            rule = calibrate(folder, join([validation[name] for name in others]))
            outputs = run_variants(folder, whole[held].images)
        figures[held] = score_all(pictures, whole[held], outputs, rule)
    return figures


def join(parts: Sequence[Pictures]) -> Pictures:
    return Pictures(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def write_golden(folder: Path, rule: VerdictRule) -> list[dict[str, Any]]:
    """One small picture per label from the test regions: the first on which both variants give the right verdict."""
    cases = []
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    for kind, label in enumerate(LABELS):
        wanted = "ok" if label == "good" else "ng"
        for number in range(50):
            rng = np.random.default_rng([SEED + 400, kind, number])
            texture = textures.TEXTURES[(kind + number) % len(textures.TEXTURES)]
            image, _ = textures.frame(rng, texture, label, "test", (160, 160))
            done, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            assert done
            found = run_variants(folder, prepare(content.tobytes()))
            rows = [outputs["probabilities"][0] for outputs in found.values()]
            if all(verdict(row, rule) == wanted and LABELS[int(row.argmax())] == label for row in rows):
                break
        else:
            raise ValueError(f"no golden picture for {label!r}: the variants agree on none of 50")
        file = f"golden/{label}.png"
        (folder / file).write_bytes(content.tobytes())
        score = float(1 - rows[0][0])
        cases.append(common.golden(folder, file, "image/png", label, score, wanted, TOLERANCES))
    return cases


def write_check(folder: Path) -> dict[str, str]:
    """Pictures of the test regions as the network sees them, 96x96, JPEG of quality 90 to stay small."""

    def samples() -> Iterator[tuple[str, bytes, str]]:
        for kind, label in enumerate(LABELS):
            for number in range(CHECK_PER_KIND):
                rng = np.random.default_rng([SEED + 500, kind, number])
                texture = textures.TEXTURES[number % len(textures.TEXTURES)]
                image, _ = textures.frame(rng, texture, label, "test", SIZES[number % len(SIZES)])
                small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                done, content = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])
                assert done
                yield f"{label}-{number:02d}.jpg", content.tobytes(), label

    return common.write_check(folder, samples())


def write_all(folder: Path, tensors: Mapping[str, str], rule: VerdictRule) -> None:
    """Write golden cases, check set and manifest."""
    specs = {
        key: [{"name": spec.name, "dtype": spec.dtype, "shape": spec.shape} for spec in group]
        for key, group in (("inputs", (IMAGE,)), ("outputs", (PROBABILITIES, HEATMAP)))
    }
    common.write_manifest(
        folder,
        {
            "schema": 1,
            "name": "surface",
            "version": "1",
            "title": "Finds scratches, holes and stains on a textured surface and shows where they are",
            "licence": "CC0-1.0",
            "provenance": "trained by models/train/surface.py on scikit-image's brick, grass and gravel photographs "
            "(CC0) with defects drawn into them",
            "labels": LABELS,
            **specs,
            "preprocess": {"kind": "image", "colour": "rgb", "resize": "stretch", "mean": STEPS.mean, "std": STEPS.std},
            "postprocess": {
                "classes": "probabilities",
                "heatmap": "heatmap",
                "heatmap_min": 0.5,
                "normal_label": "good",
                "score_unit": "probability of a defect, 0..1",
            },
            "verdict": {
                "class_score_min": rule.class_score_min,
                "score_review_min": rule.score_review_min,
                "score_ng_min": rule.score_ng_min,
                "classes": rule.classes,
            },
            "variants": common.variants(folder, tensors),
            "golden": write_golden(folder, rule),
            "check": write_check(folder),
        },
    )


def write_card(folder: Path, metrics: Mapping[str, Any], rule: VerdictRule) -> None:
    """Write README.md, the model card, from the figures themselves."""
    held = metrics["photograph_held_out"]
    tables = [
        ("### Test regions of the three photographs", metrics["test_regions"]),
        *((f"### {name.capitalize()}, by a network that never saw it", held[name]) for name in held),
    ]
    below = [
        f"- {variant}, {title.removeprefix('### ')}: {figure} {100 * figures[variant][figure]:.1f}% against "
        f"{100 * figures['baseline'][figure]:.1f}%"
        for title, figures in tables
        for variant in ("openvino-f32", "tflite-int8")
        for figure, value in figures["baseline"].items()
        if figures[variant][figure] < value
    ]
    parts = [CARD.format(rule=rule, frames=len(LABELS) * TEST_PER_KIND, train=len(LABELS) * TRAIN_PER_KIND)]
    for title, figures in tables:
        names = list(figures)
        rows = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        for figure in figures[names[0]]:
            values = (f"{100 * figures[name][figure]:.1f}" if figure in figures[name] else "" for name in names)
            rows.append(f"| {FIGURES.get(figure, figure.replace('_', ' '))} | " + " | ".join(values) + " |")
        parts += [title, "\n".join(rows)]
    shares = [
        f"| {name} | "
        + " | ".join(f"{100 * metrics['false_alarm'][split][name]:.1f}" for split in ("test", "validation"))
        for name in textures.TEXTURES
    ]
    parts += [
        ALARMS,
        "\n".join(["| | test regions | validation regions |", "|---|---:|---:|", *(f"{row} |" for row in shares)]),
    ]
    parts += ["### Below the baseline", "\n".join(below) or "No figure of any variant is below the baseline's."]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")


def main() -> None:
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {what}", flush=True)

    training = {name: take([name], "train", TRAIN_PER_KIND, SEED) for name in textures.TEXTURES}
    validation = {name: take([name], "validation", VALIDATION_PER_KIND, SEED + 100) for name in textures.TEXTURES}
    tests = {name: take([name], "test", TEST_PER_KIND, SEED + 200) for name in textures.TEXTURES}
    whole = {name: take([name], "whole", TEST_PER_KIND, SEED + 300) for name in textures.TEXTURES}
    pictures, tested = join(list(training.values())), join(list(tests.values()))
    say(f"drew {len(pictures.kinds)} pictures to train, {len(tested.kinds)} to test")

    common.make_deterministic(SEED)
    tensors = export(model := fit(pictures, EPOCHS, SEED), pictures, FOLDER)
    rule = calibrate(FOLDER, join(list(validation.values())))
    write_all(FOLDER, tensors, rule)
    say(f"trained and wrote {FOLDER} ({model.count_params()} weights)")

    regions = score_all(pictures, tested, run_variants(FOLDER, tested.images), rule)
    say(f"test regions: {regions}")
    photographs = leave_one_out(training, validation, whole)
    say(f"photographs held out: {photographs}")

    metrics: dict[str, Any] = {
        "test_regions": regions,
        "photograph_held_out": photographs,
        "false_alarm": {"test": false_alarms(tests, rule), "validation": false_alarms(validation, rule)},
    }
    common.write_metrics(FOLDER, metrics)
    write_card(FOLDER, metrics, rule)
    say("done")


if __name__ == "__main__":
    main()
