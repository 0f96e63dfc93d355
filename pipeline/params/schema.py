"""The schema of ``params.yaml``: every parameter with its type, its bounds and what it means.

It validates and never changes a result. The descriptions are also the comments in ``params.yaml`` and the text of
``docs/parameters.md``; ``make generate`` writes both.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, field_validator, model_validator

from pipeline.common.paths import is_url
from pipeline.common.text import is_printable, shortened


class ContradictionError(ValueError):
    """A value that is allowed by itself, but not together with another one.

    Args:
        key: the parameter's name in its section.
        problem: what was found, what is allowed, and how to fix it.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key


class Section(BaseModel):
    """A frozen, typed section; unknown keys, missing keys, wrong types and infinities are rejected.

    No field has a default: every value is in ``params.yaml``, where DVC sees it change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def repeated(names: Iterable[str]) -> str | None:
    """The first name that is there twice; None if there is none."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


DIGITS = 10
NEAR_DUPLICATES = "near_duplicates"
SHA256 = r"^[0-9a-fA-F]{64}$"


class DataParams(Section):
    """Where ``download`` gets the images for ``data/raw.zip``, and how they are split."""

    source: Literal["digits", "folder", "archive", "modelscope"] = Field(
        description="digits (built in), folder (of images), archive (zip or tar) or modelscope (a dataset on its hub)"
    )
    location: str | None = Field(
        description="folder, path or URL of an archive, or owner/name on modelscope; $NAME is an environment variable"
    )
    mirrors: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        description="more URLs of the same archive, tried in order after location"
    )
    revision: str | None = Field(
        description="commit, tag or branch of the modelscope dataset; null uses master and prints its commit"
    )
    sha256: Annotated[str, StringConstraints(pattern=SHA256, to_lower=True)] | None = Field(
        description="SHA-256 of the archive; required for a URL, optional for a path"
    )
    classes: Annotated[tuple[str, ...], Field(strict=False, min_length=2)] | None = Field(
        description="class names in the order of their indices; null uses classes.txt or the names of the folders"
    )
    labels: str | dict[Literal["train", "valid", "test"], str] | None = Field(
        description="table of the images' paths and classes: a CSV or text file, or {train: file, test: file}; or null"
    )
    corrections: str | None = Field(
        description="CSV file in this repository with corrected labels: id (the image's path), label or drop; or null"
    )
    pseudo_labels: str | None = Field(
        description="CSV file that pseudo-label wrote, in this repository; its images are added to train; or null"
    )
    class_depth: Annotated[int, Field(ge=1, le=32)] | None = Field(
        description="level of the folders that are the classes, 1 for the first below a split's; null finds it out"
    )
    valid_fraction: float = Field(
        gt=0, lt=0.9, description="fraction of the labelled images used for validation if the source has no such split"
    )
    test_fraction: float = Field(
        ge=0, lt=0.9, description="fraction of the labelled images used for testing if the source has no such split"
    )
    split_seed: int = Field(
        ge=0,
        lt=2**32,
        description="random seed of the split; separate from seed, so that runs with other seeds stay comparable",
    )
    groups: str | None = Field(
        description="near_duplicates, or a regular expression for the group in a path; null uses those in data.labels"
    )
    folds: int | None = Field(
        ge=2, description="number of folds of a cross-validation; null draws one validation split by valid_fraction"
    )
    fold: int = Field(ge=0, description="fold used for validation, from 0 to folds - 1; 0 without folds")
    on_bad_image: Literal["error", "skip"] = Field(
        description="images that cannot be decoded or augmented: error lists them and stops, skip leaves them out"
    )
    on_leak: Literal["warn", "drop", "error"] = Field(
        description="images in several splits: warn, drop identical ones from train (or valid), or stop with an error"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_location()
        if self.source == "modelscope":
            self._check_modelscope()
        elif self.revision is not None:
            raise ContradictionError(
                "revision", f"got {self.revision!r}, allowed with source {self.source} is null; set it to null"
            )
        if self.sha256 is not None and self.source != "archive":
            raise ContradictionError("sha256", f"got one, allowed with source {self.source} is null; set it to null")
        if self.valid_fraction + self.test_fraction > 0.95:
            raise ContradictionError(
                "test_fraction",
                f"got {self.test_fraction}, allowed with data.valid_fraction {self.valid_fraction} is a sum of at most "
                "0.95; lower one of them",
            )
        if self.source == "digits" and (self.labels is not None or self.class_depth is not None):
            key = "class_depth" if self.labels is None else "labels"
            raise ContradictionError(key, "got a value, allowed with source digits is null; set it to null")
        for name in ("corrections", "pseudo_labels"):
            file = getattr(self, name)
            if file is not None and (re.match(r"[/~\\]|\w:", file) or ".." in file):
                raise ContradictionError(
                    name, f"got {file}, allowed is a path in this repository, so that git or DVC tracks the file"
                )
        if self.labels is not None and self.class_depth is not None:
            raise ContradictionError("class_depth", "got a value, but data.labels has the classes; set one to null")
        if isinstance(self.labels, dict) and "train" not in self.labels:
            raise ContradictionError("labels", "has no file for train; add {train: ...}")
        self._check_folds()
        self._check_classes()
        return self

    def _check_folds(self) -> None:
        if self.fold >= (self.folds or 1):
            allowed = f"0 to {self.folds - 1} with {self.folds} folds" if self.folds else "0 without data.folds"
            raise ContradictionError("fold", f"got {self.fold}, allowed is {allowed}; change it")
        try:
            re.compile(self.groups or "x")
        except (re.error, OverflowError, RecursionError) as error:
            raise ContradictionError(
                "groups", f"got {self.groups!r}, which is no regular expression ({error}); correct it"
            ) from None

    def _check_location(self) -> None:
        if self.source in ("folder", "archive") and not self.location:
            raise ContradictionError(
                "location", f"got {self.location!r}, required with source {self.source}; set its path"
            )
        if self.source == "digits" and self.location is not None:
            raise ContradictionError(
                "location", f"got {self.location!r}, allowed with source digits is null; set it to null"
            )
        for key, location in (("location", self.location or ""), *(("mirrors", mirror) for mirror in self.mirrors)):
            if not location.isprintable():
                raise ContradictionError(key, f"got {location!r}, allowed are printable characters; correct it")
            if "${" in location:
                advice = "which dvc exp run -S would replace itself; for an environment variable write $NAME"
                raise ContradictionError(key, f"contains ${{, {advice}")
            # What is before the white space would not be recognised as a part of a password.
            if is_url(location) and re.search(r"\s.*@", location):
                raise ContradictionError(key, "contains white space before an @; percent-encode it as %20")
        if self.location and is_url(self.location):
            if self.source == "modelscope":
                raise ContradictionError(
                    "location",
                    f"got the URL {self.location!r}, allowed with source modelscope is owner/name; correct it",
                )
            if self.source != "archive":
                raise ContradictionError("location", f"got the URL {self.location!r}; set data.source to archive")
            if not self.sha256:
                raise ContradictionError(
                    "sha256", "got null, required with a URL; set the SHA-256 that the publisher states"
                )
        elif self.mirrors and not (self.location or "").startswith("$"):
            raise ContradictionError(
                "mirrors",
                "got a list, which needs a URL in data.location; set data.location to the first URL, or mirrors to []",
            )
        for mirror in self.mirrors:
            if not (is_url(mirror) or mirror.startswith("$")):
                raise ContradictionError(
                    "mirrors", f"contains {mirror!r}, allowed are http:// and https:// URLs; correct it"
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
        if (twice := repeated(names)) is not None:
            raise ContradictionError("classes", f"contains {twice!r} twice; make the names unique")
        for name in names:
            if not name.strip() or not is_printable(name):
                raise ContradictionError(
                    "classes", f"contains {name!r}, allowed are printable names on one line; change it"
                )
        if self.source == "digits" and names and len(names) != DIGITS:
            raise ContradictionError(
                "classes", f"contains {len(names)} names, allowed with source digits are {DIGITS}; set it to null"
            )

    @property
    def class_count(self) -> int | None:
        """The number of classes; None if only the images can tell."""
        return DIGITS if self.source == "digits" else len(self.classes) if self.classes else None


Preset = Literal["none", "light", "medium", "strong"]


class Transform(Section):
    """One albumentations transform: its name and any of its arguments."""

    model_config = ConfigDict(extra="allow")

    name: str


class AugmentParams(Section):
    """How ``augment`` resizes the images, and the augmented copies it makes of them."""

    image_size: int = Field(ge=32, le=1024, multiple_of=32, description="height and width in pixels, a multiple of 32")
    resize: Literal["stretch", "crop", "pad"] = Field(
        description="how an image is made square: stretch, crop (to its centre), or pad (borders of grey, RGB 128)"
    )
    interpolation: Literal["area", "bilinear", "bicubic"] = Field(
        description="how pixels are interpolated: area (bicubic when enlarging), or Pillow's bilinear or bicubic"
    )
    store_size: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] | None = Field(
        description="stored size of the training images, for sharper random crops during training; null for image_size"
    )
    views: int = Field(ge=0, le=64, description="augmented copies of each training image, in addition to the plain one")
    test_views: int = Field(
        ge=0, le=64, description="augmented copies of each validation and test image, for test-time augmentation"
    )
    preset: Preset = Field(
        description="predefined set of transforms for the augmented copies: none, light, medium or strong"
    )
    transforms: Annotated[tuple[Transform, ...], Field(strict=False, max_length=32)] = Field(
        description="albumentations transforms to apply after those of the preset, in order, with their arguments"
    )

    @model_validator(mode="after")
    def _views_differ(self) -> Self:
        if (self.views or self.test_views) and self.preset == "none" and not self.transforms:
            key = "views" if self.views else "test_views"
            raise ContradictionError(
                key,
                f"got {getattr(self, key)}, which needs transforms; set augment.preset or "
                "augment.transforms, or set it to 0",
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_enlarged(self) -> Self:
        if self.store_size is not None and self.store_size < self.image_size:
            raise ContradictionError(
                "store_size",
                f"got {self.store_size}, allowed with augment.image_size {self.image_size} is that or more; raise it, "
                "or set it to null",
            )
        return self


MOST = 10_000  # channels, blocks and so on in one of model.kwargs


def _size(value: JsonValue) -> float:
    """The sum of all numbers in a value."""
    if isinstance(value, list | dict):
        return sum(map(_size, value.values() if isinstance(value, dict) else value))
    return abs(value) if isinstance(value, int | float) else 0


def refuse_large(kwargs: dict[str, JsonValue]) -> None:
    """Refuse ``model.kwargs`` that build a network that keeps the machine busy: they may be those of anyone's weights.

    Raises:
        ValueError: a value has larger numbers than allowed.
    """
    for name, value in kwargs.items():
        if not _size(value) <= MOST:
            raise ValueError(f"got {name}: {shortened(repr(value), 40)}, allowed are numbers with a sum up to {MOST:,}")


class ModelParams(Section):
    """The network that ``train`` builds."""

    name: str = Field(
        description="classifier (the homework's), or a network of torchvision (resnet18) or timm (timm/resnet50d)"
    )
    width: int = Field(ge=1, le=512, description="channels of the first block of classifier; 64 in the homework")
    dropout: float = Field(
        ge=0,
        lt=1,
        description="dropout probability before the linear layers of classifier, or of a network with dropout",
    )
    stem: Literal["default", "small"] = Field(
        description="small adapts the stem of a torchvision model to small images: 3×3, stride 1, without maxpool"
    )
    drop_path_rate: float = Field(
        ge=0, lt=1, description="stochastic depth: probability of skipping the last block, lower for earlier ones"
    )
    activation: Literal["default", "relu", "silu", "mish", "gelu"] = Field(
        description="activation of a network of timm; default is the network's own"
    )
    kwargs: dict[str, JsonValue] = Field(
        description="more arguments of a network of torchvision or timm, such as {output_stride: 16}; {} or null: none"
    )
    pretrained: bool | str = Field(
        description="initial weights: true (the library's), a .safetensors or .pth file, or run:NAME; false for none"
    )

    @field_validator("kwargs", mode="before")
    @classmethod
    def _null_is_none(cls, kwargs: JsonValue) -> JsonValue:
        """So that ``-S model.kwargs=null`` removes all: DVC merges mappings, and ``{}`` would change nothing."""
        return {} if kwargs is None else kwargs

    @field_validator("kwargs")
    @classmethod
    def _kwargs_are_small(cls, kwargs: dict[str, JsonValue]) -> dict[str, JsonValue]:
        refuse_large(kwargs)
        return kwargs

    @field_validator("pretrained")
    @classmethod
    def _weights_are_a_file_or_a_run(cls, pretrained: bool | str) -> bool | str:
        if isinstance(pretrained, str) and not re.fullmatch(
            r"run:[^\s-]\S*|(?!run:).*\.(safetensors|pth|pt|bin)", pretrained
        ):
            raise ValueError(
                f"got {shortened(pretrained)!r}, allowed are true, false, the path of a .safetensors or .pth file, and "
                "run:NAME; for the name of a network, use model.name"
            )
        return pretrained

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name == "classifier" and self.pretrained is True:
            raise ContradictionError(
                "pretrained", "got true, but classifier has no pretrained weights; set it to false"
            )
        if self.name == "classifier" and self.kwargs:
            raise ContradictionError(
                "kwargs", f"got {', '.join(self.kwargs)}, but classifier has no more arguments; set it to null"
            )
        if self.activation != "default" and not self.name.startswith("timm/"):
            raise ContradictionError(
                "activation", f"got {self.activation}, allowed is default, except for networks of timm; set it to that"
            )
        return self


class TrainParams(Section):
    """How ``train`` trains the network."""

    epochs: int = Field(ge=1, le=100_000, description="maximum number of epochs")
    batch_size: int = Field(ge=2, le=1_000_000, description="images per step, over all devices together")
    min_steps_per_epoch: int = Field(
        ge=0, le=100_000, description="steps per epoch at least: fewer images are used several times; 0 means once"
    )

    lr: float = Field(gt=0, le=1e6, description="learning rate; the peak value if warm-up or a schedule changes it")
    optimizer: Literal["sgd", "adagrad", "rmsprop", "adam", "adamw", "muon"] = Field(
        description="sgd, adagrad, rmsprop (alpha 0.9), adam, adamw, or muon (hidden layers; adamw for the rest)"
    )
    momentum: float = Field(ge=0, lt=1, description="momentum of sgd, rmsprop and muon")
    nesterov: bool = Field(description="Nesterov momentum for sgd and muon")
    weight_decay: float = Field(ge=0, le=1e3, description="weight decay, as defined by the optimizer in torch.optim")
    norm_weight_decay: float = Field(ge=0, le=1e3, description="weight decay of biases and normalization layers")
    clip_norm: float = Field(ge=0, description="maximum norm of the gradient; 0 disables clipping")

    schedule: Literal["constant", "step", "exponential", "linear", "cosine", "flat_cosine", "onecycle"] = Field(
        description="constant, step, exponential, linear, cosine, flat_cosine or onecycle; updated after each step"
    )
    lr_step_size: int = Field(ge=1, description="epochs between two decays of the step schedule")
    lr_gamma: float = Field(
        gt=0, le=1, description="decay factor of the step schedule, and per epoch of the exponential schedule"
    )
    lr_min: float = Field(ge=0, description="final learning rate of linear, cosine and flat_cosine; at most train.lr")
    lr_flat_fraction: float = Field(
        ge=0, lt=1, description="fraction of the steps after warm-up with constant lr before the cosine of flat_cosine"
    )
    warmup_epochs: float = Field(
        ge=0,
        description="epochs of warm-up before the schedule; if not below train.epochs, half of that; 0 disables it",
    )
    warmup_method: Literal["linear", "constant"] = Field(
        description="linear rises to lr; constant stays at lr × warmup_decay, then jumps to lr (He et al. 2016)"
    )
    warmup_decay: float = Field(gt=0, le=1, description="factor of lr at the start of warm-up")

    freeze_epochs: int = Field(
        ge=0, description="epochs at the start in which only the last layer is trained, at constant lr; 0 disables it"
    )
    layer_decay: float = Field(
        gt=0, le=1, description="factor of lr from each layer to the one before it (Bao et al. 2022); 1 disables it"
    )
    freeze_batch_norm: bool = Field(
        description="all batch norms keep the statistics of the pretrained weights, and run in evaluation mode"
    )

    loss: Literal["cross_entropy", "mse", "bce"] = Field(
        description="cross_entropy, mse (softmax against one-hot), or bce (one sigmoid output, for two classes)"
    )
    label_smoothing: float = Field(ge=0, lt=1, description="fraction of the target spread evenly over all classes")
    class_weights: Literal["none", "balanced"] = Field(
        description="balanced weights each class by its inverse frequency; none weights all classes equally"
    )

    hflip: float = Field(ge=0, le=1, description="probability of a random horizontal flip, drawn at each step")
    random_resized_crop: float = Field(
        gt=0,
        le=1,
        description="minimum area of a crop as a fraction of the image; near 1 up to 14 % less; 1 disables it",
    )
    color_jitter: float = Field(
        ge=0, le=1, description="maximum relative change of brightness, contrast and saturation; 0 disables it"
    )
    grayscale: float = Field(ge=0, le=1, description="probability that an image becomes grey, drawn at each step")
    trivial_augment: bool = Field(
        description="one random operation on each image, with a random strength (Müller & Hutter 2021)"
    )
    random_erase: float = Field(ge=0, le=1, description="probability of erasing a random rectangle")
    mixup_alpha: float = Field(ge=0, le=100, description="alpha of mixup (Zhang et al. 2018); 0 disables it")
    cutmix_alpha: float = Field(
        ge=0,
        le=100,
        description="alpha of cutmix (Yun et al. 2019); 0 disables it; with mixup, each image gets one at random",
    )
    mix_probability: float = Field(ge=0, le=1, description="probability that an image is mixed by mixup or cutmix")
    unmixed_epochs: int = Field(ge=0, description="epochs at the end without mixup and cutmix; 0 disables it")
    start_size: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] | None = Field(
        description="training size in the first epoch, rises by 32 up to full_size_epochs; null is image_size"
    )
    full_size_epochs: int = Field(ge=0, description="epochs at the end at full size, if train.start_size is set")
    ema_decay: float = Field(
        ge=0,
        lt=1,
        description="decay of the exponential moving average of the weights, lower in the first steps; 0 disables it",
    )
    patience: int = Field(
        ge=0,
        description="epochs without a better valid accuracy (on a tie, loss) before stopping; 0 disables it",
    )

    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        description="auto is bf16 on GPUs and CPUs that compute in it, fp16 on other GPUs, fp32 on other CPUs"
    )
    deterministic: bool = Field(
        description="use only deterministic algorithms: the same bits on every run on one machine"
    )
    compile: bool = Field(
        description="use torch.compile; takes about a minute, so it pays off on a GPU over many epochs"
    )


# The methods of pipeline.network.tta, the stored copies, and the best of them.
Tta = Literal["none", "hflip", "five_crop", "ten_crop", "views", "auto"]


class EvaluateParams(Section):
    """What ``evaluate`` measures, and on which images."""

    split: Literal["auto", "test", "valid", "train"] = Field(description="auto is test if it is labelled, else valid")
    top_k: int = Field(
        ge=2, description="k of the top-k accuracy: the true class is among the k most probable; less than the classes"
    )
    tta: Tta = Field(
        description="also evaluate test-time augmentation, the mean over variants of an image; auto chooses it on valid"
    )
    # With fewer than 100 resamples only two or three lie beyond each end of a 95 % interval.
    bootstrap: Literal[0] | Annotated[int, Field(ge=100, le=100_000)] = Field(
        description="bootstrap resamples for the 95 % intervals of all metrics but shares of images; 0 for none"
    )
    baseline: bool = Field(
        description="also evaluate logistic regression and k-NN on features of model.pretrained; no effect without it"
    )


class TsneParams(Section):
    """Which features ``tsne`` embeds, and how."""

    layers: Literal["auto"] | Annotated[tuple[str, ...], Field(strict=False)] = Field(
        description="layers, or auto: the middle block and the layer before the last; the metrics are of the last"
    )
    split: Literal["auto", "test", "valid", "train"] = Field(
        description="auto is test if it is labelled, else valid; train if the split has fewer than 5 images"
    )
    max_images: int = Field(ge=10, description="maximum number of images, evenly spaced over the split")
    pca_components: int = Field(ge=2, description="principal components that are the input of t-SNE")
    perplexity: float = Field(gt=1, description="effective number of neighbours; at most a third of the images")
    exaggeration: float = Field(
        ge=1,
        le=100,
        description="attraction after the first 250 steps; 1 is standard t-SNE, up to 4 for 100,000 images or more",
    )

    @field_validator("layers")
    @classmethod
    def _layers_differ(cls, layers: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not layers:
            raise ValueError("contains no layer; add one, such as hidden2, or set it to auto")
        if not isinstance(layers, str) and (twice := repeated(layers)) is not None:
            raise ValueError(f"contains {twice!r} twice; remove one of them")
        return layers


class PredictParams(Section):
    """Which images ``predict`` classifies."""

    split: Literal["auto", "test", "valid", "train"] = Field(description="auto is test if there is one, else valid")
    tta: Tta = Field(
        description="test-time augmentation, the mean over flips, crops or augment.test_views; auto chooses it on valid"
    )
    abstain: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        description="below this probability the answer in answers.csv is unsure; null always answers with a class"
    )
    abstain_precision: Annotated[float, Field(gt=0, le=0.99)] | None = Field(
        description="instead, a threshold for each class, at which its precision on valid is this; or null"
    )

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if self.abstain is not None and self.abstain_precision is not None:
            raise ContradictionError(
                "abstain_precision", f"got {self.abstain_precision}, but predict.abstain is set; set one to null"
            )
        return self


class ExplainParams(Section):
    """How ``explain`` finds the parts of an image that speak for a class, and for how many images."""

    method: Literal["grad_cam", "occlusion"] = Field(
        description="grad_cam, or occlusion, which needs no gradient and takes about fifty times as long"
    )
    max_images: int = Field(
        ge=1,
        le=8_000,
        description="maximum number of images: mistakes, the most confident correct predictions, evenly spaced others",
    )


class LearningRatesParams(Section):
    """The error surface and the optimizers that ``learning_rates`` draws."""

    steps: int = Field(ge=1, le=5_000, description="steps of each path")
    condition_number: float = Field(
        ge=1, description="ratio of the curvature along the steep weight, which is 1, to that along the flat weight"
    )
    lr: float = Field(
        gt=0, description="learning rate of AdaGrad, RMSProp and Adam; the peak value with decay or warm-up"
    )
    gd_lr_large: float = Field(
        gt=0, description="large learning rate of gradient descent; at 2 or more it diverges along w2"
    )
    gd_lr_small: float = Field(gt=0, description="small learning rate of gradient descent")
    decay_steps: int = Field(ge=1, description="d of the decay lr / sqrt(1 + t / d) at step t after the warm-up")
    warmup_steps: int = Field(ge=1, description="steps of linear warm-up to the peak")

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

    seed: int = Field(
        ge=0,
        lt=2**32,
        description="random seed of the augmented copies, the initial weights and the order of the batches",
    )
    data: DataParams
    augment: AugmentParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    tsne: TsneParams
    predict: PredictParams
    explain: ExplainParams
    learning_rates: LearningRatesParams
