"""The section ``model``: the network."""

from typing import Literal

from pydantic import Field

from pipeline.params.base import Section


class ModelParams(Section):
    """Which network ``train`` builds."""

    name: Literal["classifier"] = Field(description="classifier: five convolution blocks, three linear layers")
    width: int = Field(ge=1, le=512, description="channels of the first block; 64 is the task's network")
