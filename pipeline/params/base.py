"""What every section of the parameters has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen, typed section: unknown keys, missing keys, wrong types and infinities are refused.

    No field has a default: every value stands in ``params.yaml``, where DVC sees it change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
