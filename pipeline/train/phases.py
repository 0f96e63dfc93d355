"""The phases of a run. What a step does depends on the parameters and on the number of its epoch alone, so that a run
that resumes in any epoch continues as it would have."""

from dataclasses import dataclass

from pipeline.params.schema import TrainParams

SIZE_STEP = 32
UNMIXED = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}


@dataclass(frozen=True)
class Phase:
    """What is the same in all steps of an epoch; the first epoch with another one starts a new phase.

    Attributes:
        head_only: whether only the last layer is trained.
        params: the section ``train``, without the augmentation that is off in this phase.
        size: height and width of the training images as the network sees them, in pixels.
    """

    head_only: bool
    params: TrainParams
    size: int

    def changes(self, new: "Phase") -> str:
        """What is different in a new phase, in words."""
        found = {
            "all layers are trained": self.head_only and not new.head_only,
            "no images are mixed": is_mixed(self.params) and not is_mixed(new.params),
            f"the training images have {new.size} pixels": self.size != new.size,
        }
        return " and ".join(text for text, applies in found.items() if applies)


def phase_of(params: TrainParams, epoch: int, full_size: int) -> Phase:
    """The phase of an epoch; after the last one it is still that of the last one.

    Args:
        params: the section ``train``.
        epoch: from 1.
        full_size: height and width of the validation images in pixels.
    """
    epoch = min(epoch, params.epochs)
    unmixed = epoch > params.epochs - params.unmixed_epochs
    return Phase(
        head_only=epoch <= params.freeze_epochs,
        params=params.model_copy(update=UNMIXED) if unmixed else params,
        size=_size_of(params, epoch, full_size),
    )


def _size_of(params: TrainParams, epoch: int, full_size: int) -> int:
    """The sizes from ``start_size`` to below ``full_size`` in equal parts of the epochs before the last ones."""
    rising = params.epochs - params.full_size_epochs
    if params.start_size is None or epoch > rising:
        return full_size
    return params.start_size + SIZE_STEP * ((epoch - 1) * ((full_size - params.start_size) // SIZE_STEP) // rising)


def is_mixed(params: TrainParams) -> bool:
    """Whether images are mixed by mixup or cutmix."""
    return bool(params.mixup_alpha or params.cutmix_alpha)


def schedule_params(params: TrainParams, head_only: bool) -> TrainParams:
    """The parameters with which the schedule of a phase is built: after ``freeze_epochs`` it begins again."""
    if params.freeze_epochs >= params.epochs:
        return params
    if head_only:
        return params.model_copy(update={"schedule": "constant", "warmup_epochs": 0.0})
    return params.model_copy(update={"epochs": params.epochs - params.freeze_epochs})
