"""The section ``augment``: the packed dataset and its augmented views."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from pipeline.params.base import ContradictionError, Section

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
