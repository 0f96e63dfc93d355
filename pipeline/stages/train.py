"""Stage ``train``: fit the network and keep its best epoch."""

import pandas as pd

from pipeline.batches import Batches
from pipeline.device import choose_device, describe_device, make_deterministic
from pipeline.files import replacing, write_json
from pipeline.live import live_metrics
from pipeline.models import ModelSpec, build_model
from pipeline.packed import PackedDataset
from pipeline.params.model import ModelParams
from pipeline.params.train import TrainParams
from pipeline.paths import DATASET, METRICS, MODEL, PLOTS
from pipeline.plots.curves import plot_curves
from pipeline.progress import say
from pipeline.training import Fit, Row, fit
from pipeline.weights import save_model


def train(model_params: ModelParams, params: TrainParams, seed: int) -> None:
    """Write ``results/model.safetensors``, ``results/metrics/train.json`` and the curves.

    Raises:
        PipelineError: there is no dataset, or the loss is no longer finite.
    """
    device = choose_device()
    make_deterministic(seed)
    dataset = PackedDataset(DATASET)
    manifest = dataset.manifest
    spec = ModelSpec(
        model_params.name, model_params.width, manifest.image_size, manifest.classes, manifest.mean, manifest.std
    )
    model = build_model(spec).to(device)
    parameters = sum(weights.numel() for weights in model.parameters())
    train_split, valid_split = dataset.split("train"), dataset.split("valid")
    say(
        f"train: {spec.name} with {parameters:,} parameters on {describe_device(device)}; "
        f"{len(train_split):,} images with {train_split.images.shape[1]} copies each, {len(valid_split):,} to validate"
    )
    batches = [Batches(s.images, s.labels, spec.mean, spec.std, device) for s in (train_split, valid_split)]
    with live_metrics() as live:

        def report(row: Row) -> None:
            live(row)
            say(
                f"train: epoch {row['epoch']:.0f} of {params.epochs}: loss {row['train_loss']:.4f}, valid loss "
                f"{row['valid_loss']:.4f}, valid accuracy {row['valid_accuracy']:.4f}"
            )

        result = fit(model, *batches, params, seed, report)
    save_model(MODEL, result.best_state, spec)
    _write_results(result, parameters)
    best = result.best
    say(f"train: {MODEL} is of epoch {best['epoch']:.0f}, valid accuracy {best['valid_accuracy']:.4f}")


def _write_results(result: Fit, parameters: int) -> None:
    best_epoch = int(result.best["epoch"])
    metrics = {name: value for name, value in result.best.items() if name not in ("epoch", "lr")}
    counts = {"best_epoch": best_epoch, "epochs": len(result.epochs), "steps": len(result.steps)}
    write_json(METRICS / "train.json", {**counts, "parameters": parameters, **metrics})
    steps = pd.DataFrame(result.steps)
    with replacing(PLOTS / "steps.csv") as beside:
        steps.to_csv(beside, index=False, float_format="%.6g")
    plot_curves(PLOTS / "curves.png", pd.DataFrame(result.epochs), steps, best_epoch)
