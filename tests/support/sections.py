"""Sections of ``params.yaml`` for tests, and small photos for the stages to run over."""

from pathlib import Path

import numpy as np
from PIL import Image

DATA = {
    "source": "folder",
    "location": "photos",
    "mirrors": [],
    "revision": None,
    "sha256": None,
    "classes": None,
    "labels": None,
    "corrections": None,
    "pseudo_labels": None,
    "class_depth": None,
    "valid_fraction": 0.25,
    "test_fraction": 0.25,
    "split_seed": 0,
    "groups": None,
    "folds": None,
    "fold": 0,
    "on_bad_image": "error",
    "on_leak": "warn",
}
AUGMENT = {
    "image_size": 32,
    "resize": "stretch",
    "interpolation": "area",
    "store_size": None,
    "views": 2,
    "test_views": 0,
    "preset": "none",
    "transforms": [{"name": "RandomResizedCrop", "scale": [0.6, 1.0]}, {"name": "HorizontalFlip"}],
}
MODEL = {
    "name": "classifier",
    "width": 4,
    "dropout": 0.0,
    "stem": "default",
    "drop_path_rate": 0.0,
    "activation": "default",
    "kwargs": {},
    "pretrained": False,
}
# Every parameter, with the options off; tests change those that they need.
TRAIN = {
    "epochs": 3,
    "batch_size": 8,
    "min_steps_per_epoch": 0,
    "lr": 0.003,
    "optimizer": "adam",
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
    "norm_weight_decay": 0.0,
    "clip_norm": 10.0,
    "schedule": "constant",
    "lr_step_size": 1,
    "lr_gamma": 0.5,
    "lr_min": 0.0,
    "lr_flat_fraction": 0.75,
    "warmup_epochs": 0.0,
    "warmup_method": "linear",
    "warmup_decay": 0.1,
    "freeze_epochs": 0,
    "layer_decay": 1.0,
    "freeze_batch_norm": False,
    "loss": "cross_entropy",
    "label_smoothing": 0.0,
    "class_weights": "none",
    "hflip": 0.0,
    "random_resized_crop": 1.0,
    "color_jitter": 0.0,
    "grayscale": 0.0,
    "trivial_augment": False,
    "random_erase": 0.0,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
    "mix_probability": 1.0,
    "unmixed_epochs": 0,
    "start_size": None,
    "full_size_epochs": 0,
    "ema_decay": 0.0,
    "patience": 0,
    "precision": "fp32",
    "deterministic": True,
    "compile": False,
}
# All options that use random numbers or have a state.
EVERYTHING = {
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "hflip": 0.5,
    "random_resized_crop": 0.6,
    "color_jitter": 0.2,
    "grayscale": 0.2,
    "random_erase": 0.3,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "mix_probability": 0.9,
    "unmixed_epochs": 1,
    "ema_decay": 0.9,
}
EVALUATE = {"split": "auto", "top_k": 2, "tta": "none", "bootstrap": 100, "baseline": False}
TSNE = {
    "layers": ["blocks.2", "hidden2"],
    "split": "auto",
    "max_images": 5000,
    "pca_components": 50,
    "perplexity": 30.0,
    "exaggeration": 1.0,
}
PREDICT = {"split": "auto", "tta": "none", "abstain": None, "abstain_precision": None}
COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def write_photos(root: Path, per_class: int = 16) -> None:
    """Photos of one colour per class with noise, in various sizes: easy to classify, and all different."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            shape = (*random.integers(36, 60, 2), 3)
            pixels = np.clip(random.normal(colour, 30, shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.jpg")
