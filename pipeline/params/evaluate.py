"""The section ``evaluate``: on what, and by which measures, the network is judged."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.base import Section


class EvaluateParams(Section):
    """What ``evaluate`` measures."""

    split: Literal["auto", "test", "valid", "train"] = Field(
        description="auto takes test where it is labelled, else valid"
    )
    top_k: int = Field(ge=2, description="a top-k hit has the true class among the k most probable")
    tta: bool = Field(
        description="test-time augmentation: judge also the mean over each image and its augment.test_views views"
    )
    # Fewer resamples than 100 leave two or three beyond each end of a 95 % interval.
    bootstrap: Literal[0] | Annotated[int, Field(ge=100, le=100_000)] = Field(
        description="resamples behind the 95 % intervals; 0 computes none"
    )
