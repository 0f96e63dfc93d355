"""Audits of made-up images."""

import numpy as np

from pipeline.augment.audit import MEASURES, Audit, audit, measure
from pipeline.common.raw_archive import RawImage

SIZE = 32
RANDOM = np.random.default_rng(0)


def noise(low: int = 0, high: int = 256) -> np.ndarray:
    """An image that is different from all others."""
    return RANDOM.integers(low, high, (SIZE, SIZE, 3), dtype=np.uint8)


def smooth(seed: int) -> np.ndarray:
    """A picture with large areas, which changes little if its pixels do."""
    random = np.random.default_rng(seed)
    return np.kron(random.integers(30, 226, (4, 4, 3)), np.ones((SIZE // 4, SIZE // 4, 1))).astype(np.uint8)


def changed(pixels: np.ndarray, by: int = 3) -> np.ndarray:
    """A near-duplicate."""
    return np.clip(pixels.astype(int) + RANDOM.integers(-by, by + 1, pixels.shape), 0, 255).astype(np.uint8)


def audited(
    *images: tuple[str, int | None, np.ndarray],
    bad: dict[int, str] | None = None,
    drop: bool = False,
    left_out: dict[str, str] | None = None,
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
    return audit(raw, ("cat", "dog"), bad, measures, SIZE, plain.__getitem__, drop, left_out or {})
