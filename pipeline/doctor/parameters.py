"""Checks of ``params.yaml``."""

from collections.abc import Iterator

from pipeline.common.paths import PARAMS
from pipeline.doctor.finding import Finding, error, ok
from pipeline.doctor.surroundings import Surroundings
from pipeline.errors import PipelineError, listed


def valid(here: Surroundings) -> Iterator[Finding]:
    """Every value is allowed."""
    try:
        params = here.params
    except PipelineError as problem:
        mend = f"edit it, or take back all changes: `git checkout -- {PARAMS}`" if here.commit else "edit it"
        yield error("values", str(problem), mend)
        return
    network = f"{params.model.name} on {params.augment.image_size} pixels, {params.train.epochs} epochs"
    yield ok("values", f"{PARAMS} is valid: {params.data.source}, {network}")


def changed(here: Surroundings) -> Iterator[Finding]:
    """Show what differs from the commit."""
    answer = here.git("show", f"HEAD:./{PARAMS}")
    if answer is None or here.valid_params is None:
        return
    from pipeline.params.file import read_yaml
    from pipeline.report.changes import changed_values, read_mapping

    pairs = changed_values(read_mapping(answer.text), read_yaml(PARAMS))
    if pairs:
        yield ok(
            "changed",
            "since the commit: " + listed([f"{key} {old!r} → {new!r}" for key, (old, new) in pairs.items()], 10),
        )
    else:
        yield ok("changed", "nothing since the commit")
