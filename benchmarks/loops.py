"""The ways to train that are compared: our engine, the usual loop of homeworks and tutorials, and timm's."""

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from inputs import CLASSES, MEAN, NAMES, SEED, STD, Photos, train_params
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEventAvg
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torchvision.models import get_model

from pipeline.network.batches import Batches, shuffled_plan
from pipeline.network.device import set_up_torch
from pipeline.network.models import ModelSpec, build_model
from pipeline.train.distributed import ProcessGroup
from pipeline.train.trainer import Trainer

# Forward and backward of the homework's network (width 64) at 128 px: 6 × 1.09 GMAC.
FLOP_PER_IMAGE = 6.5e9


class UsualLoop:
    """The loop of homeworks and tutorials, with torch's default settings, float32 and NCHW."""

    name = "the usual loop"

    def __init__(self, photos: Photos, batch_size: int, workers: int, model: nn.Module, device: torch.device) -> None:
        self.device, self.model = device, model.to(device)
        self.images = len(photos) // batch_size * batch_size
        self.loader = DataLoader(
            photos, batch_size, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda", drop_last=True
        )
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-4, weight_decay=1e-5)

    def set_up(self) -> None:
        """Reset the process-wide settings of ours."""
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False
        torch.set_float32_matmul_precision("highest")

    def epoch(self) -> None:
        """Train for one epoch."""
        self.model.train()
        losses, accuracies = [], []
        for images, labels in self.loader:
            images, labels = images.to(self.device), labels.to(self.device)
            logits = self.model(images)
            loss = self.criterion(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10)
            self.optimizer.step()
            accuracies.append((logits.argmax(dim=-1) == labels).float().mean().item())
            losses.append(loss.item())


class OurEngine:
    """``Trainer`` with the settings of the recipe food11, the same as in the usual loop.

    Args:
        name: shown in tables.
        batches: the training images, also those of the validation.
        changes: of the section ``train``.
    """

    def __init__(
        self, name: str, batches: Batches, width: int = 64, network: str = "classifier", **changes: Any
    ) -> None:
        self.name, params = name, train_params(**changes)
        # It seeds the weights, and cuDNN is chosen before the network is on the device.
        set_up_torch(SEED, params.deterministic)
        spec = ModelSpec(network, width, 0.0, "default", CLASSES, batches.size, "stretch", "area", NAMES, MEAN, STD)
        model = build_model(spec).to(batches.device)
        self.trainer = Trainer(model, batches, batches, CLASSES, params, SEED, ProcessGroup(), quiet=True)
        self.images = self.trainer.steps * min(params.batch_size, len(batches))

    def set_up(self) -> None:
        """Apply the process-wide settings of the stage ``train``."""
        set_up_torch(SEED, self.trainer.params.deterministic)

    def epoch(self) -> None:
        """Train for one epoch as ``Trainer.fit`` does, without validation."""
        self.queue_epoch()
        self.trainer.log.cpu()

    def queue_epoch(self) -> None:
        """The same, without waiting for the device."""
        self.trainer.train_epoch(lambda: None)
        self.trainer.epoch, self.trainer.step = self.trainer.epoch + 1, 0


class TimmLoop:
    """The training step of timm's ``train.py``: channels_last, bf16, torch.compile, ModelEmaV3, AdamW, clipping.

    Its parts are written out where timm is missing; the images are resident, as ours are, and normalised likewise.
    """

    def __init__(self, batches: Batches, network: str, batch_size: int, decay: float, compiled: bool) -> None:
        torch.manual_seed(SEED)
        torch.backends.cudnn.benchmark = True
        model = get_model(network, num_classes=CLASSES)
        self.model = model.to(batches.device, memory_format=torch.channels_last)
        self.update_average = _model_ema_v3(self.model, decay)
        self.compiled = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=1e-5)
        self.batches, self.batch_size, self.images = batches, batch_size, len(batches)

    def epoch(self) -> None:
        """Train for one epoch."""
        self.model.train()
        for images, labels in self.batches.load(shuffled_plan(self.images, 1, self.batch_size, SEED, 1)):
            with torch.autocast(images.device.type, torch.bfloat16):
                inputs = self.batches.as_input(images)
                loss = functional.cross_entropy(self.compiled(inputs), labels)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
            self.optimizer.step()
            self.update_average(self.model)


def _model_ema_v3(model: nn.Module, decay: float) -> Callable[[nn.Module], None]:
    """The update of timm's ModelEmaV3, or what it does with its default ``foreach=True``."""
    with suppress(ImportError):
        from timm.utils import ModelEmaV3

        return ModelEmaV3(model, decay=decay).update
    average = copy.deepcopy(model).eval()

    @torch.no_grad()
    def update(new: nn.Module) -> None:
        pairs = list(zip(average.state_dict().values(), new.state_dict().values(), strict=True))
        old, latest = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(old, latest, weight=1 - decay)
        for count, value in (pair for pair in pairs if not pair[0].is_floating_point()):
            count.copy_(value)

    return update


Contender = UsualLoop | OurEngine | TimmLoop


def usual_network(width: int, image_size: int) -> nn.Sequential:
    """The network as the homework defines it."""
    channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, 1, 1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2, 2, 0)]
    layers += [nn.Flatten(), nn.Linear(8 * width * (image_size // 32) ** 2, 16 * width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16 * width, 8 * width), nn.ReLU(), nn.Linear(8 * width, CLASSES))


def synchronise(device: torch.device) -> None:
    """Wait until the device has done its work; a CPU has."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time some work, until the device has finished it."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """The median time of some work, after one run that does not count."""
    work()
    return statistics.median(seconds(work, device) for _ in range(rounds))


def images_per_second(contender: Contender, device: torch.device) -> float:
    """The speed in one epoch."""
    contender.set_up()
    return contender.images / seconds(contender.epoch, device)


def profile_epoch(engine: OurEngine) -> EventList:
    """The cost of each operator and kernel in an epoch."""
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (engine.trainer.device.type == "cuda")]
    engine.set_up()
    with profile(activities=activities) as profiler:
        engine.epoch()
    return profiler.key_averages()


def kernels(costs: EventList) -> list[FunctionEventAvg]:
    """The kernels among the costs."""
    return [cost for cost in costs if cost.device_type == DeviceType.CUDA and not cost.is_user_annotation]


def kernel_seconds(costs: EventList) -> float:
    """The sum of the kernels' times."""
    return sum(kernel.self_device_time_total for kernel in kernels(costs)) / 1e6


def matrix_product_peak(device: torch.device, size: int = 8192, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP per second of a large matrix product, which is bound by arithmetic."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    products = 10 if device.type != "cpu" else 1

    def work() -> None:
        for _ in range(products):
            left @ right

    return products * 2 * size**3 / median_seconds(work, device)


def copy_bandwidth(device: torch.device, size: int = 2**31) -> float:
    """Bytes per second of a copy of ``size`` bytes on the device, those that it reads and those that it writes."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source), device)


def layer_costs(
    batch: int, side: int, width: int, device: torch.device
) -> Iterator[tuple[str, Callable[[], object], int, int]]:
    """The layers of the homework's blocks: a name, forward and backward in bf16, their FLOP, and the fewest values that
    they have to read and to write.
    """
    torch.backends.cudnn.benchmark = True
    before = 3
    for number, after in enumerate(width * factor for factor in (1, 2, 4, 8, 8)):
        x, y = batch * before * side**2, batch * after * side**2
        passes = 3 if number else 2  # the images need no gradient
        cases = [
            (
                "convolution",
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                passes * 18 * before * y,
                passes * (x + y),
            ),
            ("batch norm", nn.BatchNorm2d(after), 0, 3 * y + 5 * y),
            ("max pool", nn.MaxPool2d(2), 0, 2 * (y + y // 4)),
        ]
        for name, layer, flop, values in cases:
            layer.to(device, memory_format=torch.channels_last)
            channels = before if name == "convolution" else after
            images = torch.randn(batch, channels, side, side, device=device, dtype=torch.bfloat16)
            images = images.contiguous(memory_format=torch.channels_last).requires_grad_(channels != 3)
            work = partial(_forward_and_backward, layer, images)
            yield f"block {number + 1}, {before} to {after} channels, {side} px: {name}", work, flop, values
        side, before = side // 2, after


def _forward_and_backward(layer: nn.Module, images: Tensor) -> None:
    inputs = [tensor for tensor in (*layer.parameters(), images) if tensor.requires_grad]
    with torch.autocast(images.device.type, torch.bfloat16):
        outputs = layer(images)
    # Not backward(), which would also add to the gradients of the last time.
    torch.autograd.grad(outputs, inputs, outputs.detach())
