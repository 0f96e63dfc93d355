"""The section ``train``: how the network learns."""

from typing import Literal

from pydantic import Field

from pipeline.params.base import Section


class TrainParams(Section):
    """How ``train`` fits the weights."""

    epochs: int = Field(ge=1, le=100_000, description="passes over the training split, at most")
    batch_size: int = Field(ge=2, le=1_000_000, description="images a step")
    lr: float = Field(gt=0, description="learning rate; the peak, where a schedule changes it")
    optimizer: Literal["adam"] = Field(description="adam")
    weight_decay: float = Field(ge=0, description="L2 penalty as torch.optim has it")
    schedule: Literal["constant"] = Field(description="constant")
    warmup_epochs: Literal[0] = Field(description="0")
    loss: Literal["cross_entropy"] = Field(description="cross_entropy")
    clip_norm: float = Field(ge=0, description="largest norm of the gradient; 0 does not clip")
    patience: int = Field(ge=0, description="epochs without a better valid accuracy before stopping; 0 never stops")
