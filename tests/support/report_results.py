"""Generated results of all stages before the report."""

import base64
from contextlib import chdir
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from pipeline.common.dataset import INDEX_COLUMNS, Manifest
from pipeline.common.files import write_json
from pipeline.common.raw_archive import write_raw_archive
from pipeline.common.reading import with_checksum
from pipeline.common.results import write_results
from pipeline.evaluate.calibration import reliability, risk_coverage
from pipeline.evaluate.metrics import confused_pairs, curves_by_class, metrics_by_class

HOSTILE = ("<script>alert(1)</script>", "\"'&{{ 7 * 7 }}</script>", "寿司 🍣", "NA")
LAYERS = ("blocks.0", "hidden2")


def write_run(
    folder: Path, classes: tuple[str, ...], images: int, size: int = 32, steps: int = 40, wrong: int = 4
) -> None:
    """Write ``data/`` and ``results/`` of a network that misclassifies every ``wrong``-th image of the test split."""
    random = np.random.default_rng(0)
    labels = np.arange(images) % len(classes)
    logits = random.normal(0, 1, (images, len(classes)))
    logits[np.arange(images), labels] += np.where((np.arange(images) + 1) % wrong > 0, 9, -9)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [f"{row:05}" for row in range(images)]
    _write_dataset(folder / "data", classes, labels, ids, size)
    _write_evaluation(folder / "results", classes, labels, probabilities, ids)
    _write_training(folder / "results", classes, steps)
    _write_tsne(folder / "results", np.array(classes, dtype=object)[labels], ids)
    counts = [{"class": name, "train": 90, "test": int((labels == index).sum())} for index, name in enumerate(classes)]
    _write_saliency(folder / "results", ids, np.flatnonzero(probabilities.argmax(axis=1) != labels))
    details = {"splits": {"train": 90 * len(classes), "test": images}, "dark": 0, "classes": counts}
    source = f"test/{ids[0]}.png"
    _write_table(
        folder / "results/audit.csv",
        {"finding": ["leak"], "group": ["0"], "split": ["test"], "source": [source], "class": [""], "detail": [""]},
    )
    metrics = {"images": 90 + images, "leaks": 1, "bad_files": 0}
    _write_results(folder / "results", "audit", metrics, details, "audit.csv")


def photos(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Pictures with about as much detail as photos, ``uint8``, ``(count, 1, size, size, 3)``."""
    random = np.random.default_rng(seed)
    pictures = np.empty((count, 1, size, size, 3), np.uint8)
    for picture in pictures[:, 0]:
        rough, fine = (random.normal(0, 1, (side, side, 3)).astype(np.float32) for side in (6, size // 3))
        mixed = 45 * cv2.resize(rough, (size, size), interpolation=cv2.INTER_CUBIC) + 20 * cv2.resize(
            fine, (size, size)
        )
        picture[:] = np.clip(128 + mixed, 0, 255)
    return pictures


def _write_dataset(folder: Path, classes: tuple[str, ...], labels: np.ndarray, ids: list[str], size: int) -> None:
    dataset = folder / "dataset"
    dataset.mkdir(parents=True)
    pictures, sources = photos(len(ids), size), _sources(ids)
    np.save(dataset / "test.npy", pictures)
    columns = ["test", range(len(ids)), ids, labels, np.array(classes, object)[labels], sources, ""]
    _write_table(dataset / "index.csv", dict(zip(INDEX_COLUMNS, columns, strict=True)))
    Manifest(classes, size, "stretch", "area", (0.5,) * 3, (0.2,) * 3, {"test": pictures.shape}, "digest").write(
        dataset
    )
    entries = {f"test/{label}_{id}.png": path for label, id, path in zip(labels, ids, sources, strict=True)}
    # Twice as wide as high, as no input of the network is.
    contents = {
        path: cv2.imencode(".png", cv2.resize(picture, (6 * size, 3 * size)))[1].tobytes()
        for path, picture in zip(sources, pictures[:, 0], strict=True)
    }
    write_raw_archive(folder / "raw.zip", classes, entries, contents.__getitem__)


def _sources(ids: list[str]) -> list[str]:
    """File names, every seventh one with markup."""
    hostile = "<img src=x onerror=alert(1)>\"'&数.png"
    return [f"test/{name}{hostile if row % 7 == 3 else '.png'}" for row, name in enumerate(ids)]


def _write_evaluation(
    folder: Path, classes: tuple[str, ...], labels: np.ndarray, probabilities: np.ndarray, ids: list[str]
) -> None:
    names, predicted = np.array(classes, dtype=object), probabilities.argmax(axis=1)
    right = predicted == labels
    _write_table(
        folder / "evaluation/predictions.csv",
        {
            "id": ids,
            "source": _sources(ids),
            "label": labels,
            "class": names[labels],
            "predicted": predicted,
            "predicted_class": names[predicted],
            "correct": right.astype(int),
            "confidence": probabilities.max(axis=1),
            "loss": -np.log(probabilities[np.arange(len(ids)), labels]),
            **{f"p_{name}": column for name, column in zip(classes, probabilities.T, strict=True)},
        },
    )
    counts = confusion_matrix(labels, predicted, labels=np.arange(len(classes)))
    roc, precision_recall, areas = curves_by_class(labels, probabilities, classes)
    table = metrics_by_class(labels, predicted, classes)
    ends = {f"{name}_{end}": table[name] for name in ("precision", "recall", "f1") for end in ("low", "high")}
    plots = folder / "plots"
    _write_table(plots / "classes.csv", pd.concat([table.assign(**ends), areas.drop(columns="class")], axis=1))
    _write_table(plots / "confused_pairs.csv", confused_pairs(counts, classes))
    _write_table(plots / "roc.csv", roc)
    _write_table(plots / "precision_recall.csv", precision_recall)
    bins = reliability(labels, probabilities)
    both = [bins.assign(probabilities=name) for name in ("plain", "calibrated")]
    _write_table(plots / "reliability.csv", pd.concat(both))
    _write_table(plots / "risk_coverage.csv", risk_coverage(labels, probabilities)[0])
    accuracy = float(right.mean())
    interval = {"accuracy": {"low": accuracy - 0.01, "high": accuracy + 0.01}}
    details = {"split": "test", "images": len(ids), "interval": interval, "temperature": 1.5}
    details["calibrated"] = {"ece": 0.01}
    details["baseline"] = {"logistic_regression": {"accuracy": 0.6, "interval": {"low": 0.55, "high": 0.65}}}
    _write_results(folder, "evaluate", {"accuracy": accuracy, "ece": 0.05}, details, "evaluation/*.csv", "plots/*.csv")


def _write_training(folder: Path, classes: tuple[str, ...], steps: int) -> None:
    step = np.arange(1, steps + 1)
    # A gradient that overflowed, which can happen in half precision.
    norm = np.where(step == 3, np.inf, 1 + 1 / step)
    columns = {"step": step, "loss": 2 / step, "accuracy": 1 - 1 / step, "gradient_norm": norm, "lr": 1e-3 / step}
    _write_table(folder / "plots/steps.csv", columns)
    for split, shift in (("train", 0), ("valid", 0.1)):
        for name in ("loss", "accuracy"):
            path = folder / f"live/plots/metrics/{split}/{name}.tsv"
            _write_table(path, {"step": [0, 1, 2], name: [0.5 + shift, 0.4 + shift, 0.3 + shift]}, "\t")
    cv2.imwrite(str(folder / "plots/train_batch.png"), np.concatenate(photos(2, 32)[:, 0], axis=1))
    targets = [[(classes[0], 0.7), (classes[1], 0.3)], [(classes[0], 1.0)]]
    details = {
        "epochs": 3,
        "parameters": 1234,
        "plain_train_accuracy": 0.99,
        "device": "cpu",
        "precision": "torch.float32",
    }
    details["batch"] = {"side": 32, "targets": targets}
    metrics = {"best_epoch": 2, "valid_accuracy": 0.7}
    _write_results(folder, "train", metrics, details, "plots/steps.csv", "plots/train_batch.png", "live/**/*.tsv")


def _write_tsne(folder: Path, names: np.ndarray, ids: list[str]) -> None:
    random = np.random.default_rng(1)
    tables = [
        pd.DataFrame({"layer": layer, "id": ids, "class": names, "x": place[:, 0], "y": place[:, 1]})
        for layer, place in ((layer, random.normal(0, 20, (len(ids), 2))) for layer in LAYERS)
    ]
    _write_table(folder / "plots/tsne_layers.csv", pd.concat(tables))
    layers = {layer: {"trustworthiness": 0.9} for layer in LAYERS}
    details = {"split": "test", "layer": LAYERS[-1], "images": len(ids), "layers": layers}
    _write_results(folder, "tsne", {"trustworthiness": 0.9}, details, "plots/tsne_layers.csv")


def _write_saliency(folder: Path, ids: list[str], wrong: np.ndarray) -> None:
    """Maps of one cell: the first one for the predicted class, the last one for the true class."""
    maps = {name: np.zeros((4, 4), np.uint8) for name in ("predicted", "true")}
    maps["predicted"][0, 0] = maps["true"][3, 3] = 255
    texts = {name: base64.b64encode(cells.tobytes()).decode() for name, cells in maps.items()}
    facts = {"method": "grad_cam", "layer": "blocks.2", "side": 4, "split": "test"}
    counts = {"images": len(ids), "explained": len(ids), "empty": 1}
    of_each = {"predicted": dict.fromkeys(ids, texts["predicted"])}
    of_each["true"] = dict.fromkeys((ids[row] for row in wrong), texts["true"])
    write_json(folder / "saliency.json", with_checksum({**facts, **counts, **of_each}))


def _write_table(path: Path, table, separator: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).to_csv(path, index=False, sep=separator)


def _write_results(folder: Path, name: str, metrics: dict, details: dict, *tables: str) -> None:
    with chdir(folder.parent):
        write_results(name, metrics, details, *(path for table in tables for path in Path("results").glob(table)))
