"""The section ``evaluate``: on what, and by which measures, the network is judged."""

from typing import Literal

from pydantic import Field

from pipeline.params.base import Section


class EvaluateParams(Section):
    """What ``evaluate`` measures."""

    split: Literal["auto", "test", "valid", "train"] = Field(
        description="auto takes test where it is labelled, else valid"
    )
    top_k: int = Field(ge=2, description="a top-k hit has the true class among the k most probable")
