"""The section ``learning_rates``: the picture of what the learning rate does on an error surface."""

from typing import Self

from pydantic import Field, model_validator

from pipeline.params.base import ContradictionError, Section


class LearningRatesParams(Section):
    """The surface and the rates of which ``learning_rates`` draws the paths."""

    steps: int = Field(ge=1, le=5_000, description="steps of each path")
    condition_number: float = Field(
        ge=1, description="how many times the steep weight's curvature, which is 1, exceeds the flat one's"
    )
    lr: float = Field(gt=0, description="learning rate of AdaGrad, RMSProp and Adam; the peak, with decay or warm-up")
    gd_lr_large: float = Field(
        gt=0, description="large learning rate of gradient descent; from 2 on it diverges along w2"
    )
    gd_lr_small: float = Field(gt=0, description="small learning rate of gradient descent")
    decay_steps: int = Field(ge=1, description="d of the decay lr / sqrt(1 + t / d) at step t after the warm-up")
    warmup_steps: int = Field(ge=1, description="steps in which warm-up rises linearly to the peak")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.gd_lr_small >= self.gd_lr_large:
            raise ContradictionError(
                "gd_lr_small",
                f"got {self.gd_lr_small}, allowed is less than gd_lr_large ({self.gd_lr_large}); lower it",
            )
        if self.warmup_steps > self.steps:
            raise ContradictionError(
                "warmup_steps",
                f"got {self.warmup_steps}, allowed is at most learning_rates.steps ({self.steps}); lower it",
            )
        return self
