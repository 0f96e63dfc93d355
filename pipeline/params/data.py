"""The section ``data``: where the images come from."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.base import ContradictionError, Section

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
