"""The section ``predict``: the file of predictions."""

from typing import Literal

from pydantic import Field

from pipeline.params.base import Section


class PredictParams(Section):
    """What ``predict`` writes."""

    split: Literal["auto", "test", "valid", "train"] = Field(
        description="auto takes test where there is one, else valid"
    )
    tta: bool = Field(description="test-time augmentation: average over each image and its augment.test_views views")
