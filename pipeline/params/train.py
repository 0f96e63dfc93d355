"""The section ``train``: how the network learns. Names are those of torch, torchvision and timm."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import ContradictionError, Section


class TrainParams(Section):
    """How ``train`` fits the weights."""

    epochs: int = Field(ge=1, le=100_000, description="passes over the training split, at most")
    batch_size: int = Field(ge=2, le=1_000_000, description="images a step, over all devices together")

    lr: float = Field(gt=0, le=1e6, description="learning rate; the peak, where warm-up or a schedule changes it")
    optimizer: Literal["sgd", "adagrad", "rmsprop", "adam", "adamw", "muon"] = Field(
        description="sgd, adagrad, rmsprop (alpha 0.9), adam, adamw, or muon for matrices beside adamw"
    )
    momentum: float = Field(ge=0, lt=1, description="momentum of sgd, rmsprop and muon")
    nesterov: bool = Field(description="Nesterov's momentum for sgd and muon")
    weight_decay: float = Field(ge=0, le=1e3, description="weight decay as torch.optim has it")
    norm_weight_decay: float = Field(ge=0, le=1e3, description="the same for biases and the weights of norms")
    clip_norm: float = Field(ge=0, description="largest norm of the gradient; 0 does not clip")

    schedule: Literal["constant", "step", "exponential", "linear", "cosine", "onecycle"] = Field(
        description="constant, step, exponential, linear, cosine or onecycle; stepped every batch"
    )
    lr_step_size: int = Field(ge=1, description="epochs between two steps of the schedule step")
    lr_gamma: float = Field(
        gt=0, le=1, description="factor of the schedule step at each step, of exponential each epoch"
    )
    lr_min: float = Field(ge=0, description="learning rate at the end of linear and cosine")
    warmup_epochs: float = Field(ge=0, description="epochs of warm-up before the schedule; 0 has none")
    warmup_method: Literal["linear", "constant"] = Field(
        description="linear rises to lr; constant stays at lr × warmup_decay, then jumps to lr (He et al. 2016)"
    )
    warmup_decay: float = Field(gt=0, le=1, description="factor of lr at the start of warm-up")

    loss: Literal["cross_entropy", "mse", "bce"] = Field(
        description="cross_entropy, mse between softmax and one-hot, or bce with one sigmoid output for two classes"
    )
    label_smoothing: float = Field(ge=0, lt=1, description="share of the target spread over all classes")
    class_weights: Literal["none", "balanced"] = Field(
        description="balanced weighs each class by the inverse of its share; none weighs all alike"
    )

    hflip: float = Field(ge=0, le=1, description="probability of a horizontal flip, fresh at each step")
    random_resized_crop: float = Field(
        gt=0, le=1, description="least share of the area that a random crop keeps; 1 does not crop"
    )
    color_jitter: float = Field(
        ge=0, le=1, description="largest change of brightness, contrast and saturation; 0 has none"
    )
    random_erase: float = Field(ge=0, le=1, description="probability that a random rectangle is erased")
    mixup_alpha: float = Field(ge=0, le=100, description="alpha of mixup (Zhang et al. 2018); 0 does not mix")
    cutmix_alpha: float = Field(
        ge=0, le=100, description="alpha of cutmix (Yun et al. 2019); 0 does not; with mixup, either by turns"
    )
    ema_decay: float = Field(ge=0, lt=1, description="decay of the moving average of the weights; 0 keeps none")
    patience: int = Field(
        ge=0, description="epochs without a better valid accuracy (or loss at the same) before stopping; 0 never stops"
    )

    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        description="auto takes bf16 on a GPU that has it, else fp16 there, fp32 on the CPU"
    )
    deterministic: bool = Field(description="only algorithms that give the same bits on every run of one machine")
    compile: bool = Field(description="torch.compile the network; worth its minute from a GPU and many epochs on")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ContradictionError(
                "warmup_epochs",
                f"got {self.warmup_epochs}, allowed is less than train.epochs ({self.epochs}); lower it",
            )
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ContradictionError(
                "nesterov", "got true, which with sgd needs train.momentum above 0; raise it, or set false"
            )
        if self.loss == "bce" and self.label_smoothing:
            raise ContradictionError(
                "label_smoothing", f"got {self.label_smoothing}, allowed with train.loss bce is 0; set it to that"
            )
        if self.schedule == "onecycle" and self.warmup_epochs and self.warmup_method == "constant":
            raise ContradictionError(
                "warmup_method", "got constant, but train.schedule onecycle has a linear warm-up; set it to linear"
            )
        if self.schedule in ("linear", "cosine") and self.lr_min > self.lr:
            raise ContradictionError(
                "lr_min",
                f"got {self.lr_min}, allowed with schedule {self.schedule} is at most train.lr ({self.lr}); lower it",
            )
        return self
