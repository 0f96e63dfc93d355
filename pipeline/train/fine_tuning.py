"""Fine-tuning: the layers of a network, and the inputs of its last layer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.network.batches import Batches
from pipeline.network.device import forward_batch_size
from pipeline.network.models import find_head, find_heads
from pipeline.params.schema import TrainParams
from pipeline.progress import progress
from pipeline.train.distributed import ProcessGroup

Run = Callable[[nn.Module, Tensor], Tensor]
# Not a share of the free memory: inputs that are computed in other batches can differ in their last bits.
MOST_BYTES = 2 * 2**30
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def notes(params: TrainParams, model: nn.Module, pretrained: bool) -> list[str]:
    """One line for each parameter of fine-tuning without effect on the network, or without pretrained weights."""
    p, lines = params, []
    if p.freeze_epochs and not pretrained:
        lines.append("train.freeze_epochs: the frozen layers have random weights, since model.pretrained is false")
    if p.freeze_epochs >= p.epochs:
        no_effect = {"layer_decay": p.layer_decay < 1, "optimizer": p.optimizer == "muon"}
        lines += [
            f"train.{name} {getattr(p, name)} has no effect: only the last layer is trained"
            for name, found in no_effect.items()
            if found
        ]
    if p.freeze_batch_norm and not batch_norms(model):
        lines.append("train.freeze_batch_norm has no effect: the network has no batch norm")
    elif p.freeze_batch_norm and not pretrained:
        lines.append("train.freeze_batch_norm: no statistics are there to keep, since model.pretrained is false")
    return lines


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """All batch norms of a network."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def layers_of(model: nn.Module) -> list[list[nn.Parameter]]:
    """The weights of a network by layer, from the stem to the head, for ``train.layer_decay``.

    Of timm's networks they are those of timm. Of the others a layer is a block, such as a residual block or an encoder
    block, or a layer outside of the blocks; norms belong to the layer before them.
    """
    if hasattr(model, "group_matcher"):
        return _layers_of_timm(model)
    layers: list[list[nn.Parameter]] = []
    half = sum(weights.numel() for weights in model.parameters()) / 2

    def collect(module: nn.Module) -> None:
        if not _is_divided(module, half):
            weights = list(module.parameters())
            if layers and all(weight.ndim <= 1 for weight in weights):
                layers[-1] += weights
            else:
                layers.append(weights)
            return
        before = len(layers)
        for child in _with_weights(module):
            collect(child)
        # Such as the positions of an encoder, which are added before its first block.
        layers[max(before - 1, 0)] += module.parameters(recurse=False)

    collect(model)
    return layers


def _layers_of_timm(model: nn.Module) -> list[list[nn.Parameter]]:
    """As in timm's ``param_groups_layer_decay``."""
    from timm.models import group_parameters

    number_of = group_parameters(model, model.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    last = max(number_of.values())
    layers: list[list[nn.Parameter]] = [[] for _ in range(last + 1)]
    for name, weights in model.named_parameters():
        layers[number_of.get(name, last)].append(weights)
    return layers


def _is_divided(module: nn.Module, half: float) -> bool:
    """Whether a module consists of several layers: a container of blocks, or most of the network."""
    children = _with_weights(module)
    if not children:
        return False
    # torchvision derives containers of blocks from these classes, and also blocks: the latter contain layers.
    blocks = isinstance(module, CONTAINERS) and all(_with_weights(child) for child in children)
    large = sum(weights.numel() for weights in module.parameters()) > half
    return type(module) in CONTAINERS or blocks or large


def _with_weights(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if next(child.parameters(), None) is not None]


class Features(Batches):
    """The inputs of the last layer for each image and copy, ``(images, copies, ...)``, loaded as images are."""

    def __init__(self, table: Tensor, labels: Tensor) -> None:
        self.device, self.shape, self.labels = table.device, tuple(table.shape), labels.to(table.device)
        self.resident, self.images = True, table.flatten(0, 1)

    def as_input(self, images: Tensor, size: int | None = None) -> Tensor:
        """The batch itself."""
        return images


@torch.no_grad()
def head_inputs(
    model: nn.Module, run: Run, train: Batches, valid: Batches, group: ProcessGroup, quiet: bool
) -> tuple[Features, Features] | str:
    """Compute the inputs of the last layer for all copies of the training images, and for the validation images.

    Args:
        model: in evaluation mode.
        run: applies a network to its input, in the precision of the run.
        train, valid: the images.
        group: each process computes a share.
        quiet: show no progress.

    Returns:
        The inputs of the training and of the validation split; or why there are none.
    """
    _, head = find_head(model)
    seen: list[Tensor] = []
    with head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
        outputs = run(model, next(valid.in_order(1))[0])
        one = seen.pop()
        # Before training, the outputs of several last layers, whose mean is the network's, can all be 0.
        if len(find_heads(model)) > 1 or not torch.equal(run(head, one), outputs):
            return "the network changes the output of that layer"
        rows = len(train) * train.shape[1] + len(valid)
        if one.nbytes * rows > MOST_BYTES:
            return f"they would take {one.nbytes * rows / 2**30:.1f} GiB, allowed are {MOST_BYTES / 2**30:g}"

        def compute(batches: Batches, copies: int) -> Features:
            table = one.new_zeros(len(batches), copies, *one.shape[1:])
            size = forward_batch_size(batches.device, batches.size)
            for copy in range(copies):
                own, start = table[group.rank :: group.world, copy], 0
                loaded = batches.in_order(size, group.rank, group.world, copy)
                label = f"train: inputs of the last layer, copy {copy + 1} of {copies}"
                for images, _ in progress(loaded, len(own), label, step=size, quiet=quiet):
                    run(model, images)
                    own[start : start + len(images)] = seen.pop()
                    start += len(images)
            return Features(group.sum(table), batches.labels)

        return compute(train, train.shape[1]), compute(valid, 1)
