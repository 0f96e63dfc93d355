"""The section ``model``: the network."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import ContradictionError, Section


class ModelParams(Section):
    """Which network ``train`` builds."""

    name: str = Field(description="classifier (the task's), or a classification model of torchvision, such as resnet18")
    width: int = Field(ge=1, le=512, description="channels of classifier's first block; 64 is the task's network")
    dropout: float = Field(
        ge=0, lt=1, description="dropout before the linear layers of classifier, or torchvision's own"
    )
    stem: Literal["default", "small"] = Field(
        description="small fits a torchvision stem to small images: 3×3, stride 1, no pooling"
    )
    pretrained: bool = Field(description="start from torchvision's ImageNet weights, which it downloads")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name == "classifier" and self.stem != "default":
            raise ContradictionError("stem", f"got {self.stem}, but classifier has no stem; set it to default")
        if self.name == "classifier" and self.pretrained:
            raise ContradictionError(
                "pretrained", "got true, but classifier has no pretrained weights; set it to false"
            )
        return self
