"""The picture of training images as the network sees them."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.train.batch_picture import save_batch
from tests.support.trainers import batches_of, build

CLASSES = ("ant", "cat", "dog")


def saved(folder, **changes):
    trainer = build(folder, batch_size=10, **changes)
    batch = save_batch(folder / "batch.png", trainer, CLASSES)
    with Image.open(folder / "batch.png") as picture:
        return trainer, batch, np.asarray(picture)


def test_without_random_changes_it_is_the_first_batch(tmp_path):
    trainer, batch, picture = saved(tmp_path)
    images, labels = next(batches_of(trainer))
    assert picture.shape == (2 * 32, 8 * 32, 3)
    np.testing.assert_array_equal(picture[32:, 32:64], images[9].numpy())
    assert (picture[32:, 64:] == 255).all()
    assert batch == {"side": 32, "targets": [[(CLASSES[label], 1.0)] for label in labels.tolist()]}


def test_mixed_images_have_the_shares_of_their_classes(tmp_path):
    trainer, batch, picture = saved(tmp_path, mixup_alpha=1.0)
    images, labels = next(batches_of(trainer))
    row = next(row for row, target in enumerate(batch["targets"]) if len(target) == 2)
    (_, first), (_, second) = batch["targets"][row]
    assert first >= second > 0
    assert first + second == pytest.approx(1, abs=0.002)
    top, left = 32 * (row // 8), 32 * (row % 8)
    shown = picture[top : top + 32, left : left + 32].astype(float)
    share = dict(batch["targets"][row])[CLASSES[labels[row]]]
    others = [share * images[row].numpy() + (1 - share) * other.numpy() for other in images]
    assert min(abs(shown - other).max() for other in others) < 1


def test_it_is_the_same_on_each_run_and_after_training(tmp_path):
    changes = {"random_resized_crop": 0.5, "random_erase": 0.5, "cutmix_alpha": 1.0}
    trainer, batch, _ = saved(tmp_path, **changes)
    torch.rand(7)
    trainer.fit(lambda: None, lambda row: None)
    assert save_batch(tmp_path / "again.png", trainer, CLASSES) == batch
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "batch.png").read_bytes()


def test_large_images_are_reduced(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.train.batch_picture.SIDE", 16)
    _, batch, picture = saved(tmp_path)
    assert (batch["side"], picture.shape) == (16, (32, 128, 3))
