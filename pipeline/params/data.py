"""The section ``data``: where the images come from."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import Section


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
        if self.source in ("folder", "archive") and not self.location:
            raise ValueError(f"location is needed with source {self.source}: set data.location to its path")
        self._check_urls()
        self._check_modelscope()
        if self.valid_fraction + self.test_fraction > 0.95:
            both = self.valid_fraction + self.test_fraction
            raise ValueError(f"valid_fraction + test_fraction is {both:g}, allowed is at most 0.95: lower one of them")
        for name in self.classes or ():
            if (self.classes or ()).count(name) > 1:
                raise ValueError(f"classes names {name!r} twice: make the names differ")
            if not name.strip() or not name.isprintable():
                raise ValueError(f"classes holds {name!r}, allowed are printable names of one line: change it")
        return self

    def _check_urls(self) -> None:
        if self.location and is_url(self.location):
            if self.source != "archive":
                raise ValueError(f"location {self.location!r} is a URL: set data.source to archive")
            if not self.sha256:
                raise ValueError("a URL needs data.sha256: set it to the SHA-256 that the publisher states")
        elif self.mirrors:
            raise ValueError("mirrors need a URL in data.location: set it to the first of them, or mirrors to []")
        for mirror in self.mirrors:
            if not is_url(mirror):
                raise ValueError(f"mirrors holds {mirror!r}, allowed are http:// and https:// URLs: correct it")

    def _check_modelscope(self) -> None:
        if self.source != "modelscope":
            if self.revision is not None:
                raise ValueError(f"revision goes with source modelscope, not {self.source}: set it to null")
            return
        if self.location is not None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.location, re.ASCII):
            raise ValueError(f"location is {self.location!r}, allowed with source modelscope is owner/name: correct it")
        if self.revision is not None and not re.fullmatch(r"\w[\w/-]*(\.[\w/-]+)*", self.revision, re.ASCII):
            raise ValueError(f"revision is {self.revision!r}, allowed is a commit, a tag or a branch: correct it")
        if self.sha256 is not None:
            raise ValueError("sha256 is of an archive, modelscope states one for each file: set it to null")


def is_url(location: str) -> bool:
    """Whether a location is to be fetched, and no path."""
    return location.startswith(("http://", "https://"))
