"""Trainers over tiny datasets."""

import torch
from torch import nn

from pipeline.network.batches import Batches, shuffled_plan
from pipeline.network.models import Classifier
from pipeline.train.distributed import ProcessGroup
from pipeline.train.optimization import outputs_for
from pipeline.train.trainer import Trainer
from tests.support.tiny_datasets import MEAN, STD, train_params, write_split

CPU = torch.device("cpu")


def build(
    folder,
    classes=3,
    resident=True,
    model=None,
    images=24,
    size=32,
    dropout=0.1,
    group=None,
    device=CPU,
    **changes,
) -> Trainer:
    """A trainer over 24 images, 3 steps an epoch."""
    params = train_params(**changes)
    splits = [write_split(folder, images, size=size, classes=classes, name="train")]
    splits.append(write_split(folder, 12, 1, size, classes, seed=1, name="valid"))
    torch.manual_seed(0)
    if model is None:
        model = Classifier(width=2, dropout=dropout, image_size=32, outputs=outputs_for(params.loss, classes))
    train, valid = (Batches(split, MEAN, STD, device, resident) for split in splits)
    return Trainer(model.to(device), train, valid, classes, params, seed=5, group=group or ProcessGroup())


def fit(trainer: Trainer):
    return trainer.fit(lambda: None, lambda row: None)


def batches_of(trainer: Trainer, epochs: int = 1):
    for epoch in range(1, epochs + 1):
        plan = shuffled_plan(len(trainer.train), trainer.train.shape[1], trainer.params.batch_size, 5, epoch)
        yield from trainer.train.load(plan)


def linear_model():
    """No batch norm, whose statistics change even where no weight does."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
