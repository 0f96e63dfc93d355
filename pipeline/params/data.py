"""The section ``data``: where the images come from."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import Section


class DataParams(Section):
    """What ``download`` brings into ``data/raw.zip``."""

    source: Literal["digits", "folder", "archive"] = Field(
        description="digits (built in), folder (of images) or archive (zip or tar)"
    )
    location: str | None = Field(description="path of the folder; path or URL of the archive; null for digits")
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.source != "digits" and not self.location:
            raise ValueError(f"location is needed with source {self.source}: set data.location to its path")
        if self.location and self.location.startswith(("http://", "https://")):
            if self.source != "archive":
                raise ValueError(f"location {self.location!r} is a URL: set data.source to archive")
            if not self.sha256:
                raise ValueError("a URL needs data.sha256: set it to the SHA-256 that the publisher states")
        if self.valid_fraction + self.test_fraction > 0.95:
            both = self.valid_fraction + self.test_fraction
            raise ValueError(f"valid_fraction + test_fraction is {both:g}, allowed is at most 0.95: lower one of them")
        for name in self.classes or ():
            if (self.classes or ()).count(name) > 1:
                raise ValueError(f"classes names {name!r} twice: make the names differ")
            if not name.strip() or not name.isprintable():
                raise ValueError(f"classes holds {name!r}, allowed are printable names of one line: change it")
        return self
