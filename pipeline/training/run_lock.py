"""One process at a time for one training: two tasks of a queue can ask for the very same one."""

from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.progress import say


class RunLock:
    """Lock of a training; it ends with its process, however that dies, and leaves no file when it is released.

    Who waits holds a second lock, his place in the line. So the one before knows that what he leaves is wanted.

    Args:
        path: of the checkpoint; the locks lie beside it.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._run, self._line = (FileLock(path.with_suffix(suffix)) for suffix in (".lock", ".line"))

    def acquire(self, seconds: float) -> bool:
        """Try for so many seconds, and again if called again; whether the training is this process's now.

        Where the file system has no locks, it is, and the user is told.
        """
        try:
            for lock in (self._line, self._run):
                if not lock.is_locked:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    lock.acquire(timeout=seconds)
        except (Timeout, FileNotFoundError):  # the latter when another process has just removed the empty folder
            return False
        except OSError as error:
            say(f"train: no lock in {self._folder} ({error.strerror}); let no other process train the very same")
        self._line.release()
        return True

    def is_awaited(self) -> bool:
        """Whether another process waits for this one's end; if not, whoever comes from now on waits for its release."""
        try:
            self._line.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            pass
        return False

    def release(self) -> None:
        """Let the next one train; the files go with the last one."""
        # A file may go while its lock is held: who opened it just before finds out, and tries again.
        if not self.is_awaited():
            for lock in (self._run, self._line):
                Path(lock.lock_file).unlink(missing_ok=True)
        self._run.release()
        self._line.release(force=True)
