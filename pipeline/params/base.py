"""What every section of the parameters has in common."""

from pydantic import BaseModel, ConfigDict


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
