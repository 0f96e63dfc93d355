"""The phases of a run. What a step does depends on the parameters and on the number of its epoch alone, so that a run
that resumes in any epoch continues as it would have."""

from dataclasses import dataclass

from pipeline.params.schema import TrainParams

UNMIXED = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}


@dataclass(frozen=True)
class Phase:
    """What is the same in all steps of an epoch; the first epoch with another one starts a new phase.

    Attributes:
        head_only: whether only the last layer is trained.
        params: the section ``train``, without the augmentation that is off in this phase.
    """

    head_only: bool
    params: TrainParams

    def changes(self, new: "Phase") -> str:
        """What is different in a new phase, in words."""
        mixing = is_mixed(self.params) and not is_mixed(new.params)
        found = {
            "all layers are trained": self.head_only and not new.head_only,
            "no images are mixed": mixing,
        }
        return " and ".join(text for text, applies in found.items() if applies)


def phase_of(params: TrainParams, epoch: int) -> Phase:
    """The phase of an epoch; after the last one it is still that of the last one."""
    epoch = min(epoch, params.epochs)
    unmixed = epoch > params.epochs - params.unmixed_epochs
    return Phase(epoch <= params.freeze_epochs, params.model_copy(update=UNMIXED) if unmixed else params)


def is_mixed(params: TrainParams) -> bool:
    """Whether images are mixed by mixup or cutmix."""
    return bool(params.mixup_alpha or params.cutmix_alpha)


def schedule_params(params: TrainParams, phase: Phase) -> TrainParams:
    """The parameters with which the schedule of a phase is built: after ``freeze_epochs`` it begins again."""
    if params.freeze_epochs >= params.epochs:
        return params
    if phase.head_only:
        return params.model_copy(update={"schedule": "constant", "warmup_epochs": 0.0})
    return params.model_copy(update={"epochs": params.epochs - params.freeze_epochs})
