"""A step as one CUDA graph: a GPU can be faster than Python launches its kernels one by one."""

from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor

Result = TypeVar("Result")
WARM_UP = 3  # calls until cuDNN has chosen its algorithms, and torch.compile has compiled forward and backward


class CudaGraph(Generic[Result]):
    """Calls a function of tensors by replaying its kernels: the same bits, without Python in between.

    Its first call records the function, which must not make the host wait for the device, and takes random numbers from
    torch's default generator only: a graph registers that one by itself, and each replay advances it. If the recording
    fails or would take more than half of the free memory, the function is called as it is from then on.

    Args:
        function: always gets tensors of the same shapes. Those that it creates and keeps, such as gradients, have to be
            missing before it is recorded, so that the graph owns them.
        state: the tensors that the function changes in place.
        report: gets a line if the function cannot be recorded.
        forget: removes what the function has created and kept.
    """

    def __init__(
        self,
        function: Callable[..., Result],
        state: list[Tensor],
        report: Callable[[str], None],
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self.function, self.state, self.report, self.forget = function, state, report, forget
        self.replay: Callable[[], None] | None = None
        self.inputs: tuple[Tensor, ...] | None = None
        self.result: Result | None = None

    def __call__(self, *inputs: Tensor) -> Result:
        """The result of the function; the next call overwrites it, and what the function has kept."""
        if self.inputs is None:
            self._record(inputs)
        if self.replay is None:
            return self.function(*inputs)
        torch._foreach_copy_(cast(tuple[Tensor, ...], self.inputs), inputs)
        self.replay()
        return cast(Result, self.result)

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        """Record the function, and undo the effects of the calls before that: on its state and the random state."""
        device, random, recorded = inputs[0].device, torch.cuda.get_rng_state(inputs[0].device), False
        before: list[Tensor] = []
        main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            before = [tensor.clone() for tensor in self.state]
            self.inputs = tuple(tensor.clone() for tensor in inputs)
            side.wait_stream(main)
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self.function(*self.inputs)
            torch.cuda.synchronize(device)
            self.forget()
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info(device)
            # Other threads may use the device meanwhile: those that read batches ahead.
            with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                self.result = self.function(*self.inputs)
            recorded = True
            if 2 * torch.cuda.mem_get_info(device)[0] < free:
                raise MemoryError("it would take more than half of the free memory")
            self.replay = graph.replay
        except Exception as error:  # whatever cannot be recorded can still be called
            self.inputs, self.result = (), None
            if not recorded:
                _clean_up(device, pool)
            cause = error.__context__ or error  # an error within the recording is followed by one at its end
            reason = (str(cause) or type(cause).__name__).splitlines()[0]
            self.report(f"the kernels of a step are launched one by one, since no CUDA graph can be used ({reason})")
        finally:
            torch.cuda.set_stream(main)
            torch.cuda.synchronize(device)
            if before:
                torch._foreach_copy_(self.state, before)
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
