"""Files from URLs, into a cache that all clones of the project share. What it gives has the right SHA-256."""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, responses
from itertools import chain
from pathlib import Path

import platformdirs
import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from pipeline.common.file_types import HEAD, Kind, kind_of, what_it_is
from pipeline.download.store import locked
from pipeline.errors import PipelineError, printable
from pipeline.progress import byte_progress, say

CHUNK = 256 * 1024  # bytes
# What requests and urllib3 raise for a request or a body; some of urllib3's and http.client's come out unwrapped.
NETWORK_ERRORS = (requests.RequestException, HTTPError, HTTPException, ValueError)
HOPELESS = (requests.TooManyRedirects, ValueError)  # of a request: an address or a proxy that is none
ADVICE = "check the address and the network, or set it to a file that you fetched yourself"


@dataclass(frozen=True)
class Patience:
    """How long a download goes on: times in seconds; counts for each mirror."""

    connect: float = 15.0
    stall: float = 60.0  # without a byte
    tries: int = 6  # in a row that bring nothing new
    requests: int = 300  # in all
    first_pause: float = 1.0  # doubled after each try that brings nothing new
    longest_pause: float = 60.0


PATIENCE = Patience()


def cache_folder() -> Path:
    """Return the folder that keeps fetched files: ``PIPELINE_CACHE``, or else one in the user's cache."""
    return Path(os.environ.get("PIPELINE_CACHE") or platformdirs.user_cache_dir("image-classification-pipeline"))


def fetch(urls: Sequence[str], sha256: str, patience: Patience = PATIENCE) -> Path:
    """Return the verified file from the shared cache, fetched from the first URL that gives it.

    ``sha256`` is 64 lower-case hexadecimal digits, and the file's name there. What came before a break stays beside
    it, and the next call, of any process, goes on from there.

    Raises:
        PipelineError: no URL gave a file with this SHA-256, or the folder cannot take it.
    """
    path = cache_folder() / sha256
    try:
        if _sha256(path) != sha256:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path):
                if path.exists() and _sha256(path) != sha256:
                    say(f"download: {path} is damaged (its SHA-256 is another one); it is fetched again")
                    path.unlink()
                if not path.exists():
                    _Download(path, patience, [_Mirror(url) for url in dict.fromkeys(urls)]).run()
    except OSError as error:
        raise PipelineError(
            f"data.location: no download into {error.filename or path.parent} ({error.strerror or error}); "
            "mend that, or set the environment variable PIPELINE_CACHE to a folder with room"
        ) from None
    return path


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


class _MirrorError(Exception):
    """Why a mirror did not give the file: ``reason`` follows its URL. A final one ends its use, ``wait`` is seconds."""

    def __init__(
        self,
        reason: str,
        final: bool = False,
        wait: float = 0.0,
        wrong: bool = False,
        key: str = "data.location",
        advice: str = ADVICE,
    ) -> None:
        self.reason, self.final, self.wait, self.wrong = printable(reason)[:300], final, wait, wrong
        self.key, self.advice = key, advice


@dataclass
class _Mirror:
    url: str
    error: _MirrorError = field(default_factory=lambda: _MirrorError("was not asked"))  # the last one
    asked: int = 0
    idle: int = 0  # times in a row that it brought nothing new
    wrong: int = 0  # files with another SHA-256, of which two are enough
    off: bool = False  # not asked again
    ready: float = 0.0  # on the monotonic clock: not asked before
    ranges: bool = True  # asked for what is missing, not for the whole file


@dataclass
class _Download:
    """The way of one file: ``path`` with ``.part`` behind it grows until its SHA-256 is that in its name."""

    path: Path
    patience: Patience
    mirrors: list[_Mirror]
    mixing: bool = True  # one mirror goes on with what another one began

    def __post_init__(self) -> None:
        self.part = self.path.with_name(f"{self.path.name}.part")
        self.sources = {"an earlier run"} if self.part.exists() else set()

    def run(self) -> None:
        mirror = self.mirrors[0]
        while True:
            time.sleep(max(0.0, mirror.ready - time.monotonic()))
            before = self._size()
            try:
                self._ask(mirror)
            except _MirrorError as error:
                self._note(mirror, error, progress=self._size() > before)
            else:
                self.part.replace(self.path)
                return
            mirror = self._following(mirror)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _note(self, mirror: _Mirror, error: _MirrorError, progress: bool) -> None:
        patience = self.patience
        mirror.error = error
        mirror.asked += 1
        mirror.idle = 0 if progress else mirror.idle + 1
        mirror.wrong += error.wrong
        spent = mirror.idle >= patience.tries or mirror.asked >= patience.requests or mirror.wrong >= 2
        mirror.off = error.final or spent
        pause = min(patience.first_pause * 2 ** max(mirror.idle - 1, 0), patience.longest_pause)
        mirror.ready = time.monotonic() + max(pause, error.wait)

    def _following(self, mirror: _Mirror) -> _Mirror:
        """Stay with a mirror that brings something; else take the one that may be asked first."""
        now = time.monotonic()
        usable = [other for other in self.mirrors if not other.off]
        if not usable:
            raise self._error()
        following = mirror if mirror in usable and not mirror.idle else min(usable, key=lambda m: max(m.ready, now))
        what = "it is asked again" if following is mirror else f"{printable(following.url)} is asked"
        when = f" in {round(following.ready - now, 1):g} s" if following.ready > now else ""
        say(f"download: {printable(mirror.url)} {mirror.error.reason}; {what}{when}")
        return following

    def _error(self) -> PipelineError:
        errors = [mirror.error for mirror in self.mirrors]
        key = errors[0].key if len({error.key for error in errors}) == 1 else "data.location"
        many = f"none of {len(errors)} mirrors gave the file: " if len(errors) > 1 else ""
        found = "; ".join(
            f"{printable(mirror.url)} {mirror.error.reason}" + (f" (asked {mirror.asked} times)" * (mirror.asked > 1))
            for mirror in self.mirrors
        )
        advice = ", or ".join(dict.fromkeys(error.advice for error in errors))
        kept = f" ({self._size():,} bytes are kept, and the next run goes on from there)" if self._size() else ""
        return PipelineError(f"{key}: {many}{found}; {advice}{kept}")

    def _ask(self, mirror: _Mirror) -> None:
        """Bring the file to its end from one mirror, or raise what keeps it from that."""
        if not self.mixing and not self.sources <= {mirror.url}:
            self._drop()
        offset = self._size() if mirror.ranges else 0
        with _answer(mirror.url, offset, self.patience) as response:
            status, place = response.status_code, _place(response, offset)
            if place:
                self._write(mirror, response, *place)
        found = _sha256(self.part)
        if found == self.path.name:
            return
        if not place:
            mirror.ranges = False
            raise _MirrorError(f"answered {status} without the part of the file that it was asked for")
        alone = self.sources == {mirror.url}
        self.mixing &= alone
        self._drop()
        if not alone:
            raise _MirrorError("ended a file, begun earlier or elsewhere, that has another SHA-256; it is begun anew")
        advice = "correct it if it is not what the publisher states, or take another mirror"
        reason = f"gave a file with the SHA-256 {found}, expected is {self.path.name}"
        raise _MirrorError(reason, wrong=True, key="data.sha256", advice=advice)

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.sources = set()

    def _write(self, mirror: _Mirror, response: requests.Response, start: int, total: int | None) -> None:
        """Write the body at ``start``; an older end stays until the new one is there, should this break off."""
        chunks = _body(response, self.patience)
        if start == 0:
            chunks = _refusing_pages(chunks)
        self._check_room(total)
        self.part.touch()
        self.sources.add(mirror.url)
        with self.part.open("r+b") as file:
            file.seek(start)
            for chunk in byte_progress(chunks, start, total, "download"):
                file.write(chunk)
            end = file.tell()
            if end < (total or 1):  # an answer that was cut off before its length is empty, and of no known length
                raise _MirrorError(f"ended after {end:,} bytes" + (f" of {total:,}" if total else ""))
            file.truncate()
        if start == 0:
            self.sources = {mirror.url}

    def _check_room(self, total: int | None) -> None:
        needed, free = (total or 0) - self._size(), shutil.disk_usage(self.part.parent).free
        if needed > free:
            room = f"{needed / 1e6:,.0f} MB more, but {self.part.parent} has {free / 1e6:,.0f} MB free"
            advice = "make room, or set the environment variable PIPELINE_CACHE to a folder that has it"
            raise _MirrorError(f"needs {room}", final=True, advice=advice)


def _answer(url: str, offset: int, patience: Patience) -> requests.Response:
    """Ask for the bytes from ``offset``; return an answer 200, 206 or, to a range, 416, with its body unread."""
    # A body that is compressed on the way has no bytes to count on and to go on from.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=(patience.connect, patience.stall))
    except HOPELESS as error:
        raise _MirrorError(f"cannot be fetched ({error})", final=True) from None
    except NETWORK_ERRORS as error:
        hopeless = "CERTIFICATE_VERIFY_FAILED" in str(error)
        raise _MirrorError(f"gave no answer ({_cause(error, patience)})", final=hopeless) from None
    status = response.status_code
    if status in (200, 206) or (status == 416 and offset):
        return response
    response.close()
    reason = f"answered {status} ({responses.get(status, 'unknown')})"
    if status not in (408, 425, 429) and status < 500:
        raise _MirrorError(reason, final=True)
    wait = _retry_after(response)
    if wait > patience.longest_pause:
        reason += f" and asks to wait {wait:,.0f} s, more than the {patience.longest_pause:g} s that a run waits"
    raise _MirrorError(reason, final=wait > patience.longest_pause, wait=wait)


def _retry_after(response: requests.Response) -> float:
    """Return the seconds that the server asks to wait."""
    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except (HTTPError, ValueError, OverflowError):
        return 0.0


def _place(response: requests.Response, offset: int) -> tuple[int, int | None] | None:
    """Return where the body begins in the file and, if known, the file's size; None if not where it was asked for."""
    if response.status_code == 200:
        return 0, response.raw.length_remaining
    found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
    if response.status_code != 206 or not found or int(found[1]) != offset:
        return None
    return offset, None if found[2] == "*" else int(found[2])


def _body(response: requests.Response, patience: Patience) -> Iterator[bytes]:
    """Yield the body as it comes, not decoded: unlike read(), read1() loses nothing of it when it breaks off."""
    try:
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            yield chunk
    except NETWORK_ERRORS as error:
        raise _MirrorError(f"broke off ({_cause(error, patience)})") from None


def _refusing_pages(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass a file through, unless it begins as a page for people does, or as a pointer to what git did not fetch."""
    head = b""
    while len(head) < HEAD and (chunk := next(chunks, b"")):
        head += chunk
    kind = kind_of(head)
    if kind is Kind.POINTER:
        raise _MirrorError(f"gave {kind.value}", wrong=True)
    if kind is Kind.PAGE:
        raise _MirrorError(f"gave {what_it_is(head)}, and not the file", wrong=True)
    return chain([head], chunks)


def _cause(error: BaseException, patience: Patience) -> str:
    """Say what is at the root of an error of requests, without the layers around it."""
    proxy = "proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    if isinstance(error, requests.ConnectTimeout):
        return f"{proxy}no connection within {patience.connect:g} s"
    layers = [error]
    while below := layers[-1].__cause__ or layers[-1].__context__:
        layers.append(below)
    root = next((layer for layer in reversed(layers) if isinstance(layer, OSError | HTTPException)), error)
    if isinstance(root, TimeoutError) and root.errno is None:
        return f"{proxy}nothing came for {patience.stall:g} s"
    return proxy + str(getattr(root, "strerror", None) or root or type(root).__name__)
