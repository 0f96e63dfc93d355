"""A step as one CUDA graph: a GPU can be faster than Python launches its kernels one by one."""

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

WARM_UP = 3  # calls until cuDNN has chosen its algorithms, and torch.compile has compiled forward and backward


class CudaGraph:
    """Calls a function of a batch by replaying its kernels: the same bits, without Python in between.

    Its first call records the function, which must not make the host wait for the device, and takes random numbers from
    torch's default generator only: a graph registers that one by itself, and each replay advances it. If the recording
    fails or would take more than half of the free memory, the function is called as it is from then on.

    Args:
        function: computes the gradients of a network for a batch, always of the same shape, and returns a tensor. The
            gradients have to be None before its backward pass, so that the graph owns them.
        model: the network, whose buffers the function may change.
        report: gets a line if the function cannot be recorded.
    """

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], model: nn.Module, report: Callable[[str], None]
    ) -> None:
        self.function, self.model, self.report = function, model, report
        self.replay: Callable[[], None] | None = None
        self.batch: tuple[Tensor, Tensor] | None = None
        self.result: Tensor | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The result of the function; the next call overwrites it, and the gradients."""
        if self.batch is None:
            self.batch = images.clone(), labels.clone()
            self._record(*self.batch)
        if self.replay is None or self.result is None:
            return self.function(images, labels)
        for static, new in zip(self.batch, (images, labels), strict=True):
            static.copy_(new)
        self.replay()
        return self.result

    def _record(self, images: Tensor, labels: Tensor) -> None:
        """Record the function, and undo the effects of the calls before that: on buffers and random state."""
        device, buffers = images.device, list(self.model.buffers())
        before, random = [buffer.clone() for buffer in buffers], torch.cuda.get_rng_state(device)
        main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            side.wait_stream(main)
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self.function(images, labels)
            torch.cuda.synchronize(device)
            self.model.zero_grad()
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info(device)
            # Other threads may use the device meanwhile: those that read batches ahead.
            with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                self.result = self.function(images, labels)
            if 2 * torch.cuda.mem_get_info(device)[0] < free:
                raise MemoryError("it would take more than half of the free memory")
            self.replay = graph.replay
        except Exception as error:  # whatever cannot be recorded can still be called
            self.result = None
            _clean_up(device, pool)
            cause = error.__context__ or error  # an error within the recording is followed by one at its end
            reason = (str(cause) or type(cause).__name__).splitlines()[0]
            self.report(f"the kernels of a step are launched one by one, since no CUDA graph can be used ({reason})")
        finally:
            torch.cuda.set_stream(main)
            torch.cuda.synchronize(device)
            if buffers:
                torch._foreach_copy_(buffers, before)
            torch.cuda.set_rng_state(random, device)


def _clean_up(device: torch.device, pool: tuple[int, int]) -> None:
    """Repair what torch leaves behind if a recording fails.

    Its allocator and its generator still wait for the end of the recording then: the former could free no memory, and
    the latter would refuse to draw numbers.
    """
    with suppress(RuntimeError):  # the recording had not begun, or has ended
        torch._C._cuda_endAllocateToPool(device.index, pool)
    generator = torch.cuda.default_generators[device.index]
    generator.graphsafe_set_state(generator.clone_state())
    torch.cuda.empty_cache()
