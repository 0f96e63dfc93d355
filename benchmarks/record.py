"""Accuracy from scratch on Imagewoof by the rules of its leaderboard, beside the best that others have published.

    python benchmarks/record.py run FOLDER imagewoof2-160.tgz --epochs 5 --seeds 5
    python benchmarks/record.py run FOLDER imagewoof2-160.tgz --epochs 5 --seeds 3 --ablation
    python benchmarks/record.py run FOLDER imagewoof2-160.tgz --epochs 5 --seeds 1 --part "without EMA"
    python benchmarks/record.py table

The archive has ``train/{class}/`` and ``val/{class}/``, short side 160 px. *run* clones the last commit into a folder,
unless it exists, applies the recipe imagewoof, and calls what ``python -m pipeline seeds`` calls: each network is a DVC
experiment there. It appends one line of JSON per network to ``record.jsonl`` as it ends, and leaves out those that the
file has. It can be stopped at any time; of a training that is resumed, the minutes are those since then. *table* writes
RESULTS.md's section from that file.

The rules: random initial weights, no test-time augmentation, validation at no larger size than training, the accuracy
of the last epoch (of the averaged weights, as all that the recipe validates and saves).
"""

import io
import json
import math
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from inputs import ROOT, SMALL, call, clone_with_recipe, with_quick_mode, write_noise_archive
from scipy.stats import t

from pipeline.common.files import replacing
from pipeline.common.paths import DETAILS, LIVE
from pipeline.common.shares import LEVEL
from pipeline.experiments.revisions import read_results, read_text
from pipeline.experiments.seeds import run_seeds
from pipeline.git import git

LINES, RESULTS = ROOT / "benchmarks/record.jsonl", ROOT / "benchmarks/RESULTS.md"
CURVE = LIVE / "plots/metrics/valid/accuracy.tsv"
# Of the public leaderboard of fastai/imagenette and what is known beyond it, 128 px, by epochs.
PUBLISHED = {5: 0.7661, 20: 0.8627, 80: 0.8783, 200: 0.8830}
MIXED = {"train.mixup_alpha": 0.2, "train.cutmix_alpha": 1.0, "train.mix_probability": 0.5, "train.color_jitter": 0.3}
ROWS: dict[int, dict[str, Any]] = {5: {}, 20: {}, 80: MIXED | {"train.unmixed_epochs": 10}}
ROWS[200] = ROWS[80] | {"model.drop_path_rate": 0.05}
# What the recipe's parts bring: without each of them.
ABLATION: dict[str, dict[str, Any]] = {
    "AdamW instead of Muon": {"train.optimizer": "adamw"},
    "ReLU instead of SiLU": {"model.activation": "default"},
    "without blurring before strides": {"model.name": "timm/resnet18"},
    "output stride 32 instead of 16": {"model.kwargs.output_stride": 32},
    "without the ResNet-D stem and shortcuts": {
        "model.kwargs.stem_type": "''",
        "model.kwargs.stem_width": 64,
        "model.kwargs.avg_down": False,
    },
    "without EMA": {"train.ema_decay": 0.0},
    "linear instead of flat, then cosine": {"train.schedule": "linear"},
    "without label smoothing": {"train.label_smoothing": 0.0},
    "without squeeze and excitation": {"model.kwargs.block_args.attn_layer": "null"},
    "batches of 64 instead of 32": {"train.batch_size": 64, "train.lr": 0.002, "train.ema_decay": 0.99},
    "stored at 128 px": {"augment.store_size": "null"},
}
START, END = "<!-- record.py: -->\n", "<!-- record.py. -->\n"
app = typer.Typer(add_completion=False)


@app.command()
def run(
    folder: Path,
    archive: Path,
    epochs: int = 5,
    seeds: int = 5,
    first: int = 1,
    ablation: bool = False,
    part: list[str] | None = None,
    lines: Path = LINES,
) -> None:
    """Train the missing networks of a row, or those of its ablation, or of some parts of it."""
    if unknown := set(part or ()) - ABLATION.keys():
        raise SystemExit(f"--part: got {', '.join(unknown)}, allowed are {', '.join(ABLATION)}")
    if not folder.exists():
        prepare(folder, archive, {})
    for name in part or (ABLATION if ablation else ["recipe"]):
        settings = ROWS.get(epochs, {}) | {"train.epochs": epochs} | ABLATION.get(name, {})
        for seed in range(first, first + seeds):
            found = read_lines(lines)
            if not ((found["epochs"] == epochs) & (found["name"] == name) & (found["seed"] == seed)).any():
                line = {"epochs": epochs, "name": name, "seed": seed, **trained(folder, settings, seed)}
                with lines.open("a") as file:
                    print(json.dumps(line), file=file)


def prepare(folder: Path, archive: Path, changes: dict[str, Any]) -> None:
    """Clone the last commit, and commit the recipe with the archive."""
    with replacing(folder) as temporary:
        clone_with_recipe(temporary, "imagewoof", {"data.location": str(archive.resolve())} | changes)
        author = ["-c", "user.name=record", "-c", "user.email=record@example.org"]
        git(*author, "commit", "--quiet", "--all", "--message", "Recipe", folder=temporary)
        call(temporary, "dvc", "repro", "download")


def trained(folder: Path, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train one network as an experiment of the repository in a folder: its accuracy, the minutes of the experiment,
    evaluation included, and the device."""
    start = time.monotonic()
    with chdir(folder):
        results, failures = run_seeds([seed], [f"{key}={value}" for key, value in settings.items()])
        if failures:
            raise SystemExit("\n".join(failures))
        (experiment,) = results["experiment"]
        curve = pd.read_csv(io.StringIO(read_text(experiment, CURVE)), sep="\t")
        details = read_results(experiment, "train", DETAILS)
    minutes = (time.monotonic() - start) / 60
    facts = {"device": details.get("gpu", details["device"]), "precision": details["precision"]}
    facts |= {"parameters": details["parameters"], "commit": git("rev-parse", "HEAD~1", folder=folder)[:7]}
    return {"accuracy": round(float(curve["accuracy"].iloc[-1]), 6), "minutes": round(minutes, 1), **facts}


def read_lines(lines: Path) -> pd.DataFrame:
    """All networks so far."""
    found = pd.read_json(lines, lines=True) if lines.exists() else pd.DataFrame()
    return found.reindex(columns=found.columns.union(["epochs", "name", "seed", "accuracy", "minutes", "device"]))


@app.command()
def table(lines: Path = LINES, results: Path = RESULTS) -> None:
    """Write the section of RESULTS.md."""
    found = read_lines(lines)
    before, start, rest = results.read_text("utf-8").partition(START)
    _, end, after = rest.partition(END)
    text = "\n".join(["", *rows(found), "", *ablation_rows(found), "", ""])
    results.write_text(before + start + text + end + after, "utf-8")


def rows(found: pd.DataFrame) -> list[str]:
    """The table of the leaderboard's rows."""
    header = "| px / epochs | best published | ours | seeds | device | minutes per seed |"
    lines = [header, "| --- | --- | --- | --- | --- | --- |"]
    for epochs, published in PUBLISHED.items():
        own = found[(found["epochs"] == epochs) & (found["name"] == "recipe")]
        cells = [
            described(own["accuracy"]),
            len(own),
            ", ".join(own["device"].unique()),
            f"{own['minutes'].median():.0f}",
        ]
        shown = cells if len(own) else ["not measured", "", "", ""]
        lines.append(" | ".join(["| 128 / " + str(epochs), f"{published:.2%}", *map(str, shown)]) + " |")
    return lines


def ablation_rows(found: pd.DataFrame) -> list[str]:
    """The table of what each part of the recipe brings at 5 epochs: the difference with the 95 % interval of a t test.

    The standard deviation over seeds is taken to be the same for all, so that one seed of a part has an interval, too.
    """
    found = found[(found["epochs"] == 5) & found["name"].isin(["recipe", *ABLATION])]
    by_name = found.groupby("name")["accuracy"]
    degrees = len(found) - by_name.ngroups
    squares = ((found["accuracy"] - by_name.transform("mean")) ** 2).sum()
    deviation = math.sqrt(squares / degrees) if degrees else math.nan
    recipe = found[found["name"] == "recipe"]["accuracy"]
    lines = ["| 5 epochs | accuracy | seeds | difference to the recipe |", "| --- | --- | --- | --- |"]
    for name in ABLATION:
        own = found[found["name"] == name]["accuracy"]
        cells = ["not measured", "", ""]
        if len(own) and len(recipe):
            difference = own.mean() - recipe.mean()
            half = t.isf((1 - LEVEL) / 2, degrees) * deviation * math.sqrt(1 / len(own) + 1 / len(recipe))
            interval = f" ({100 * (difference - half):+.2f} to {100 * (difference + half):+.2f})" if degrees else ""
            cells = [described(own), str(len(own)), f"{100 * difference:+.2f} points{interval}"]
        lines.append(" | ".join([f"| {name}", *cells]) + " |")
    return lines


def described(values: pd.Series) -> str:
    """Mean and standard deviation in percent."""
    deviation = f" ± {100 * values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2%}{deviation}"


def quick() -> None:
    """Two small networks of one epoch, and their table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, archive, lines, results = (Path(temporary, name) for name in ("clone", "a.zip", "a.jsonl", "a.md"))
        write_noise_archive(archive, 6)
        prepare(folder, archive, SMALL | {"augment.store_size": None})
        for _ in range(2):
            run(folder, archive, epochs=1, seeds=1, lines=lines)
        if len(read_lines(lines)) != 1:
            raise SystemExit("a finished network was not left out")
        results.write_text(f"Before\n{START}{END}After\n", "utf-8")
        table(lines, results)
        print(results.read_text("utf-8"))


with_quick_mode(app, quick)
if __name__ == "__main__":
    app()
