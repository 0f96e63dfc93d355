"""Checks of the environment variables."""

import difflib
import os
from collections.abc import Callable, Iterator

from pipeline.doctor.finding import Finding, error, note, ok
from pipeline.doctor.surroundings import Surroundings
from pipeline.errors import PipelineError
from pipeline.machine import VARIABLES, checkpoint_minutes, process_count, worker_count

# Others that change what the commands do, and hold no secret once a URL is without its user.
OTHERS = (
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTHONPATH",
    "PYTHONSAFEPATH",
    "PYTHONHASHSEED",
    "DVC_ROOT",
    "DVC_SITE_CACHE_DIR",
    "DVC_GLOBAL_CONFIG_DIR",
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "MODELSCOPE_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "TMPDIR",
    "WORLD_SIZE",
    "LOCAL_RANK",
)
READERS: tuple[Callable[[], object], ...] = (worker_count, process_count, checkpoint_minutes)


def settings(_: Surroundings) -> Iterator[Finding]:
    """The variables ``PIPELINE_*`` are known and allowed; whether the device is there, another check says."""
    given = sorted(name for name in os.environ if name.startswith("PIPELINE_"))
    for name in given:
        if name not in VARIABLES:
            close = difflib.get_close_matches(name, VARIABLES, n=1)
            yield error(
                "PIPELINE_*",
                f"{name} is not known, and does nothing; allowed are {', '.join(VARIABLES)}",
                (f"did you mean {close[0]}? " if close else "") + f"`unset {name}`",
            )
    for read in READERS:
        try:
            read()
        except PipelineError as problem:
            complaint, _semicolon, mend = str(problem).partition("; ")
            yield error("PIPELINE_*", complaint, f"{mend}: `unset {complaint.split(':')[0]}`")
    known = [f"{name}={os.environ[name]}" for name in given if name in VARIABLES]
    yield ok("PIPELINE_*", ", ".join(known) or "none is set")


def others(_: Surroundings) -> Iterator[Finding]:
    """Show the other variables that matter; those of git lead DVC and git elsewhere."""
    given = {
        name: value for name in OTHERS if (value := os.environ.get(name, os.environ.get(name.lower()))) is not None
    }
    astray = [name for name in given if name.startswith("GIT_") or name == "DVC_ROOT"]
    if astray:
        yield note(
            "other variables",
            f"{', '.join(astray)} make git or DVC work on another place than this folder",
            f"`unset {' '.join(astray)}`",
        )
    if given:
        yield ok("other variables", ", ".join(f"{name}={value!r}" for name, value in given.items()))
