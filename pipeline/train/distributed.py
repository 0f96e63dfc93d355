"""Training with several processes, which ``torchrun`` or ``PIPELINE_PROCESSES`` (see ``cli``) starts."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.machine import world_size

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together; without ``torchrun`` a single one.

    Attributes:
        rank: number of this process; process 0 writes the outputs.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes the outputs."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.world == 1 else bool(self.sum(torch.tensor(int(flag), device=device)).item())

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """The value of the main process."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Wrap a model so that the processes average gradients and share the statistics of batch norm."""
        if self.world == 1:
            return model
        model = _sync_batch_norms(model, device)
        with warnings.catch_warnings():
            # torch 2.15 deprecates broadcast_buffers, but older versions do not have its new name.
            warnings.simplefilter("ignore", FutureWarning)
            # The batch norms of all processes have the same statistics already.
            return nn.parallel.DistributedDataParallel(
                model,
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the processes that ``torchrun`` started, and leave them at the end.

    Raises:
        PipelineError: torchrun may restart processes in a way that can hang.
    """
    world = world_size()
    if world == 1:
        yield ProcessGroup()
        return
    _refuse_restarts_that_hang()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield ProcessGroup(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()


def _refuse_restarts_that_hang() -> None:
    # The store that torchrun keeps across a restart still contains the addresses of dead processes. A new process that
    # reads them before they are overwritten waits for ever (https://github.com/pytorch/pytorch/issues/135712).
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts != "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise PipelineError(
            f"torchrun: got --max-restarts={restarts} with a store that is kept across restarts, after which a process "
            "can wait for a dead one; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun on each host, with "
            "--rdzv-backend=c10d or --standalone"
        )


class _AllReduce(torch.autograd.Function):
    """Sum over all processes, of the tensor and of its gradient."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class _SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device; ``nn.SyncBatchNorm`` runs on GPUs only."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        values = images.float()
        count = values.numel() / values.shape[1]
        sums = values.sum(dim=(0, 2, 3))
        total: Tensor = _AllReduce.apply(torch.cat([sums, sums.new_tensor([count])]))
        total_count = total[-1]
        mean = total[:-1] / total_count
        # The mean of the squares less the square of the mean would have no correct digit if the mean is large.
        centred = values - mean.view(1, -1, 1, 1)
        variance: Tensor = _AllReduce.apply(centred.square().sum(dim=(0, 2, 3))) / total_count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * total_count / (total_count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        normalised = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        outputs = normalised.to(images.dtype)
        after: Any = self
        return after.act(after.drop(outputs)) if hasattr(self, "act") else outputs  # in a batch norm of timm


def _sync_batch_norms(model: nn.Module, device: torch.device) -> nn.Module:
    if any(isinstance(module, nn.SyncBatchNorm | _SyncedBatchNorm) for module in model.modules()):
        return model  # of an earlier phase
    if device.type != "cuda":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = type("SyncedBatchNorm", (_SyncedBatchNorm, type(module)), {})
        return model
    convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
    if "timm" in sys.modules:  # torch's would lose the activations within timm's batch norms
        convert = import_module("timm.layers").convert_sync_batchnorm
    converted: nn.Module = convert(model)
    return converted
