"""The whole of ``params.yaml``."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class ContradictionError(ValueError):
    """A value that is allowed by itself, but not beside another one.

    Args:
        key: the parameter's name in its section.
        problem: what was found, what is allowed, and how to mend it.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key


class Section(BaseModel):
    """A frozen, typed section: unknown keys, missing keys, wrong types and infinities are refused.

    No field has a default: every value stands in ``params.yaml``, where DVC sees it change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


DIGITS = 10


class DataParams(Section):
    """What ``download`` brings into ``data/raw.zip``."""

    source: Literal["digits", "folder", "archive", "modelscope"] = Field(
        description="digits (built in), folder (of images), archive (zip or tar) or modelscope (a dataset on its hub)"
    )
    location: str | None = Field(
        description="path of the folder; path or URL of the archive; owner/name on modelscope; null for digits"
    )
    mirrors: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        description="further URLs of the same archive, tried in order after location"
    )
    revision: str | None = Field(
        description="commit, tag or branch of the modelscope dataset; null takes master, and says its commit"
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        description="SHA-256 of the archive; needed for a URL, checked for a path"
    )
    classes: Annotated[tuple[str, ...], Field(strict=False, min_length=2)] | None = Field(
        description="class names in the order of their indices; null takes classes.txt or the folders' names"
    )
    valid_fraction: float = Field(
        gt=0, lt=0.9, description="share of the labelled images that becomes valid where the source has none"
    )
    test_fraction: float = Field(
        ge=0, lt=0.9, description="share of the labelled images that becomes test where the source has none"
    )
    split_seed: int = Field(ge=0, lt=2**32, description="seed of that split; apart from seed, so runs stay comparable")
    on_bad_image: Literal["error", "skip"] = Field(
        description="error stops at files that cannot be decoded, and lists all; skip leaves them out, in the audit"
    )
    on_leak: Literal["warn", "drop", "error"] = Field(
        description="for images that are in two splits: warn, drop them from train (or valid), or stop with an error"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_location()
        if self.source == "modelscope":
            self._check_modelscope()
        elif self.revision is not None:
            raise ContradictionError(
                "revision", f"got {self.revision!r}, allowed with source {self.source} is null; set it"
            )
        if self.sha256 is not None and self.source != "archive":
            raise ContradictionError("sha256", f"got one, allowed with source {self.source} is null; set it")
        if self.valid_fraction + self.test_fraction > 0.95:
            raise ContradictionError(
                "test_fraction",
                f"got {self.test_fraction}, with data.valid_fraction ({self.valid_fraction}) allowed is at most 0.95; "
                "lower one of them",
            )
        self._check_classes()
        return self

    def _check_location(self) -> None:
        if self.source in ("folder", "archive") and not self.location:
            raise ContradictionError(
                "location", f"got {self.location!r}, needed with source {self.source}; set its path"
            )
        if self.source == "digits" and self.location is not None:
            raise ContradictionError("location", f"got {self.location!r}, allowed with source digits is null; set it")
        if self.location and not self.location.isprintable():
            raise ContradictionError("location", f"got {self.location!r}, allowed are printable characters; correct it")
        if self.location and is_url(self.location):
            if self.source != "archive":
                raise ContradictionError("location", f"got the URL {self.location!r}; set data.source to archive")
            if not self.sha256:
                raise ContradictionError(
                    "sha256", "got null, needed with a URL; set the SHA-256 that the publisher states"
                )
        elif self.mirrors:
            raise ContradictionError(
                "mirrors", "got some, which need a URL in data.location; set that to the first, or mirrors to []"
            )
        for mirror in self.mirrors:
            if not (is_url(mirror) and mirror.isprintable()):
                raise ContradictionError(
                    "mirrors", f"holds {mirror!r}, allowed are http:// and https:// URLs; correct it"
                )

    def _check_modelscope(self) -> None:
        if self.location is not None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.location, re.ASCII):
            raise ContradictionError(
                "location", f"got {self.location!r}, allowed with source modelscope is owner/name; correct it"
            )
        if self.revision is not None and not re.fullmatch(r"\w[\w/-]*(\.[\w/-]+)*", self.revision, re.ASCII):
            raise ContradictionError(
                "revision", f"got {self.revision!r}, allowed is a commit, a tag or a branch; correct it"
            )

    def _check_classes(self) -> None:
        names = self.classes or ()
        for name in names:
            if names.count(name) > 1:
                raise ContradictionError("classes", f"names {name!r} twice; make the names differ")
            if not name.strip() or not name.isprintable():
                raise ContradictionError(
                    "classes", f"holds {name!r}, allowed are printable names of one line; change it"
                )
        if self.source == "digits" and names and len(names) != DIGITS:
            raise ContradictionError("classes", f"names {len(names)} classes, the digits have {DIGITS}; set it to null")

    @property
    def class_count(self) -> int | None:
        """How many classes there are, None where only the images can say it."""
        return DIGITS if self.source == "digits" else len(self.classes) if self.classes else None


def is_url(location: str) -> bool:
    """Whether a location is to be fetched, and no path."""
    return location.startswith(("http://", "https://"))


Preset = Literal["none", "light", "medium", "strong"]


class Transform(Section):
    """One albumentations transform: its name and any of its arguments."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments as the user gave them, without the name."""
        return dict(self.model_extra or {})


class AugmentParams(Section):
    """How ``augment`` turns the photos into arrays."""

    image_size: int = Field(ge=32, le=1024, multiple_of=32, description="height and width in pixels, a multiple of 32")
    resize: Literal["stretch", "crop"] = Field(
        description="how a photo becomes square: stretch, or crop (short side, then centre)"
    )
    views: int = Field(ge=0, le=64, description="augmented copies of each training image, beside the plain one")
    test_views: int = Field(
        ge=0, le=64, description="augmented copies of each valid and test image, for test-time augmentation"
    )
    preset: Preset = Field(description="transforms that draw a view: none, light, medium or strong")
    transforms: Annotated[tuple[Transform, ...], Field(strict=False)] = Field(
        description="albumentations transforms after the preset's, in order, with their arguments"
    )

    @model_validator(mode="after")
    def _views_differ(self) -> Self:
        if (self.views or self.test_views) and self.preset == "none" and not self.transforms:
            key = "views" if self.views else "test_views"
            raise ContradictionError(
                key,
                f"got {getattr(self, key)}, which needs transforms to draw them; set augment.preset or "
                "augment.transforms, or set it to 0",
            )
        return self


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


class TsneParams(Section):
    """Which features ``tsne`` draws, and how."""

    layers: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        description="layers to draw, the last is rated: blocks.0 to blocks.4, hidden1, hidden2, output"
    )
    split: Literal["auto", "test", "valid", "train"] = Field(
        description="auto takes test where it is labelled, else valid"
    )
    max_images: int = Field(ge=10, description="at most so many images, evenly spread over the split")
    pca_components: int = Field(ge=2, description="principal components that t-SNE gets")
    perplexity: float = Field(gt=1, description="effective number of neighbours; at most a third of the images")
    exaggeration: float = Field(
        ge=1,
        le=100,
        description="attraction after the first 250 steps; 1 is plain t-SNE, up to 4 suits 100,000 images and more",
    )

    @field_validator("layers")
    @classmethod
    def _layers_differ(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        if not layers:
            raise ValueError("names no layer; name one, such as hidden2")
        for name in layers:
            if layers.count(name) > 1:
                raise ValueError(f"names {name!r} twice; remove one of them")
        return layers


class PredictParams(Section):
    """What ``predict`` writes."""

    split: Literal["auto", "test", "valid", "train"] = Field(
        description="auto takes test where there is one, else valid"
    )
    tta: bool = Field(description="test-time augmentation: average over each image and its augment.test_views views")


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


class Params(Section):
    """Every parameter of a run."""

    seed: int = Field(ge=0, lt=2**32, description="random seed of the views, the initial weights and the batches")
    data: DataParams
    augment: AugmentParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    tsne: TsneParams
    predict: PredictParams
    learning_rates: LearningRatesParams
