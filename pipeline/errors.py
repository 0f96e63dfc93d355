"""The one exception that a user is meant to read, and other errors explained in one line."""

import errno
import os
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

from pipeline.common.text import one_line, shown_name

# Errors of writing: the disk is full, a quota is used up, or a file would be larger than allowed.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NEARLY_FULL = 10e6


class PipelineError(Exception):
    """Bad input. The message is one line: the file or key, what was found, what is allowed, how to fix it."""

    exit_code = 1


class MachineError(PipelineError):
    """Not the fault of the input: the disk is full, or a server does not answer. The command may succeed later."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


def explained(error: Exception) -> str | None:
    """What an error of the machine means, in one line: of a file or a disk, too little memory, a killed process.

    Returns:
        None for any other error.
    """
    text, kind = one_line(str(error)), type(error).__name__
    if isinstance(error, OSError):
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | Path) else None
        name = f"{shown_name(path)}: " if path else ""
        disk = free_space(path) if error.errno in NO_SPACE else ""
        return f"{name}{one_line(error.strerror or '') or text or kind}{disk}"
    if unnamed_full_disk(error):
        return f"{text}{free_space(None)}"
    if kind == "BrokenProcessPool":
        return (
            "a worker process was killed, probably because there was too little memory; close other programs, or set "
            "PIPELINE_WORKERS to a lower number"
        )
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in text:
        return (
            f"out of memory ({text or kind}); close other programs, or lower PIPELINE_WORKERS, train.batch_size or "
            "augment.image_size"
        )
    if isinstance(error, EOFError):
        return f"a file, or what another process sends, ends too early ({text or kind}); dvc repro writes it again"
    return None


def unexpected(error: Exception) -> str:
    """An error that no code expects, in one line: its type, the last line of our code that it passed, and its text."""
    package = Path(__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame for frame in frames if Path(frame.filename).is_relative_to(package)]
    place = f" in {Path(lines[-1].filename).relative_to(package.parent)}:{lines[-1].lineno}" if lines else ""
    return (
        f"unexpected {type(error).__name__}{place}: {one_line(str(error))[:300]}; set PIPELINE_DEBUG=1 for the "
        "traceback, and report it"
    )


def is_full_disk(error: Exception) -> bool:
    """Whether an error is that of a full disk, of a file that it names or not."""
    return (isinstance(error, OSError) and error.errno in NO_SPACE) or unnamed_full_disk(error)


def unnamed_full_disk(error: Exception) -> bool:
    """Whether the disk is full, and the error does not say of which file, as that of writing to an open file."""
    if isinstance(error, OSError):
        return error.errno in NO_SPACE and error.filename is None
    return os.strerror(errno.ENOSPC) in str(error)  # of a library that is not written in Python


def free_space(path: str | None) -> str:
    """Say how much space is free on the disk of a path; of an unknown path, on those disks that are nearly full."""
    places = [Path(path)] if path else [Path(), Path("/dev/shm")]
    if not path:
        with suppress(OSError):  # there is no folder for temporary files if all disks are full
            places.append(Path(tempfile.gettempdir()))
    disks = {}
    for place in places:
        folder = next(folder for folder in (place.resolve(), *place.resolve().parents) if folder.exists())
        mount = next(parent for parent in (folder, *folder.parents) if os.path.ismount(parent))
        disk = os.statvfs(folder)
        # A disk without a limit for the number of files has 0 of them.
        disks[mount] = disk.f_bavail * disk.f_frsize if disk.f_favail or not disk.f_files else 0
    shown = {mount: free for mount, free in disks.items() if path or free < NEARLY_FULL}
    if not shown:
        return "; it may be the disk of the file that the output is written to"
    return "".join(f"; the disk at {mount} has {free / 1e6:,.1f} MB free" for mount, free in shown.items())
