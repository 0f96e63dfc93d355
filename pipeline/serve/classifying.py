"""Classifying uploaded image files in a pool of threads."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.images.decoding import one_large_image, plain_photo
from pipeline.images.transforms import plain_copy
from pipeline.network.calibrating import energies
from pipeline.network.onnx_file import OnnxModel
from pipeline.serve.occlusion import highlighted, occlusion_map

# Of one image: its probabilities, ``float32``, ``(1, classes)``, and its energy score, ``(1,)``.
Outputs = tuple[NDArray[np.float32], NDArray[np.float64]]


@dataclass(frozen=True)
class Limits:
    """What a request may use.

    Attributes:
        bytes: of the body of a request.
        pixels: of an image.
        images: per request.
        requests: that are read, wait or are classified at the same time; more are answered with 503.
        seconds: for a request, from its first byte to the answer.
    """

    bytes: int
    pixels: int
    images: int
    requests: int
    seconds: float


class Classifying:
    """A pool of threads, each of which decodes one file at a time, with the pixels that ``predict`` sees, and runs the
    network on it.

    Args:
        model: opened for one thread in each call.
        threads: their number.
        most_pixels: allowed in a file.
    """

    def __init__(self, model: OnnxModel, threads: int, most_pixels: int) -> None:
        self.model, self.most_pixels = model, most_pixels
        self._local, self._large = threading.local(), threading.Lock()
        self._pool = ThreadPoolExecutor(threads, "classify", self._start_thread)

    def submit(self, file: BinaryIO) -> "Future[Outputs | str]":
        """The future outputs for an open file, or the reason why it is no image."""
        return self._pool.submit(self._classify, file)

    def close(self) -> None:
        """Wait for the files that are being classified."""
        self._pool.shutdown(cancel_futures=True)

    def _start_thread(self) -> None:
        # Transforms have a state, so every thread has its own.
        self._local.plain = plain_copy(self.model)

    def explain(self, file: BinaryIO, deadline: float) -> "Future[bytes | str]":
        """The future picture of what speaks for the predicted class, a PNG, or the reason why the file is no image.

        It ends soon after the ``deadline``, a time of ``time.monotonic``.
        """
        return self._pool.submit(self._explain, file, deadline)

    def _classify(self, file: BinaryIO) -> Outputs | str:
        pixels = self._pixels(file)
        if isinstance(pixels, str):
            return pixels
        probabilities, logits = self.model.run(pixels[None])
        return probabilities, energies(logits)

    def _explain(self, file: BinaryIO, deadline: float) -> bytes | str:
        pixels = self._pixels(file)
        return pixels if isinstance(pixels, str) else highlighted(pixels, occlusion_map(self.model, pixels, deadline))

    def _pixels(self, file: BinaryIO) -> NDArray[np.uint8] | str:
        content = file.read()
        try:
            with one_large_image(self._large):
                pixels: NDArray[np.uint8] = self._local.plain(
                    plain_photo(content, self.model.image_size, self.most_pixels)
                )
                return pixels
        except ValueError as error:
            return str(error)
