"""Audits of made-up images."""

import numpy as np

from pipeline.augment.audit import MEASURES, Audit, audit, measure
from pipeline.common.raw_archive import RawImage

SIZE = 32
RANDOM = np.random.default_rng(0)


def noise(low: int = 0, high: int = 256) -> np.ndarray:
    """An image that is different from all others."""
    return RANDOM.integers(low, high, (SIZE, SIZE, 3), dtype=np.uint8)


def audited(
    *images: tuple[str, int | None, np.ndarray], bad: dict[int, str] | None = None, drop: bool = False
) -> Audit:
    """Audit images given as (split, label, pixels)."""
    bad = bad or {}
    raw = [
        RawImage(f"{split}/{row}.png", split, label, str(row), f"{split}/{row}.png")
        for row, (split, label, _) in enumerate(images)
    ]
    plain = [
        pixels[:SIZE, :SIZE] if len(pixels) >= SIZE else np.resize(pixels, (SIZE, SIZE, 3)) for *_, pixels in images
    ]
    measures = np.zeros(len(images), MEASURES)
    for row, (_, _, pixels) in enumerate(images):
        if row not in bad:
            measures[row] = measure(pixels.tobytes(), pixels, plain[row])
    return audit(raw, ("cat", "dog"), bad, measures, SIZE, plain.__getitem__, drop)
