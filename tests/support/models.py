"""The specification of a small network."""

from pipeline.network.models import ModelSpec

SPEC = ModelSpec(
    "classifier",
    4,
    0.0,
    "default",
    3,
    32,
    "stretch",
    ("blue", "green", "red"),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
)
