"""Downloads files over HTTP into the cache: from mirrors, resuming what was interrupted, and checked by SHA-256."""

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, responses
from itertools import chain
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from pipeline.common.file_types import HEAD, Kind, describe, kind_of
from pipeline.common.text import one_line
from pipeline.download.cache import cache_folder, file_sha256, locked
from pipeline.errors import PipelineError
from pipeline.progress import byte_progress, say

CHUNK = 256 * 1024  # bytes
# What requests raises, for a request or while reading; some errors of urllib3 and http.client are not wrapped.
NETWORK_ERRORS = (requests.RequestException, HTTPError, HTTPException, ValueError)
INVALID_ADDRESS = (requests.TooManyRedirects, ValueError)  # of the URL, of a redirect or of a proxy


@dataclass(frozen=True)
class RetryPolicy:
    """When to retry a mirror and when to give up; times are in seconds, counts are per mirror."""

    connect_timeout: float = 15.0
    read_timeout: float = 60.0  # without a byte
    tries: int = 6  # in a row that add no bytes
    requests: int = 300  # in all
    first_pause: float = 1.0  # doubled after each further try that adds no bytes
    longest_pause: float = 60.0


RETRY_POLICY = RetryPolicy()


def fetch(urls: Sequence[str], sha256: str, policy: RetryPolicy = RETRY_POLICY) -> Path:
    """Return the path of the verified file in the cache, after downloading it if necessary.

    A partial download is kept next to the file, and resumed by the next call in any process.

    Args:
        urls: mirrors of the file, in order of preference.
        sha256: 64 lower-case hexadecimal digits; also the name of the file in the cache.
        policy: when to give up.

    Raises:
        PipelineError: no URL returned a file with this SHA-256, or the folder cannot be written.
    """
    path = cache_folder() / sha256
    try:
        if not path.exists() or file_sha256(path) != sha256:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path):
                if path.exists() and file_sha256(path) != sha256:
                    say(f"download: {path} is damaged (its SHA-256 does not match); fetching it again")
                    path.unlink()
                if not path.exists():
                    _Download(path, policy, [_Mirror(url) for url in dict.fromkeys(urls)]).run()
    except OSError as error:
        raise PipelineError(
            f"data.location: cannot download into {error.filename or path.parent} ({error.strerror or error}); "
            "fix that, or set the environment variable PIPELINE_CACHE to a folder with enough space"
        ) from None
    return path


@dataclass(eq=False)
class _MirrorError(Exception):
    """Why a request did not complete the file; ``reason`` follows the URL in messages."""

    reason: str
    final: bool = False  # do not ask this mirror again
    wait: float = 0.0  # seconds that the server asks to wait
    wrong: bool = False  # the content is not that of the file
    key: str = "data.location"
    advice: str = "check the address and the network, or set it to a file that you downloaded yourself"

    def __post_init__(self) -> None:
        self.reason = one_line(self.reason)[:300]


@dataclass
class _Mirror:
    url: str
    error: _MirrorError = field(default_factory=lambda: _MirrorError("was not asked"))  # the last one
    requests: int = 0
    failures: int = 0  # in a row, without new bytes
    wrong: int = 0  # files with another SHA-256; two are enough
    usable: bool = True
    ready: float = 0.0  # when it may be asked again, on the monotonic clock
    ranges: bool = True  # ask for what is missing, not for the whole file

    def __str__(self) -> str:
        return one_line(self.url)


@dataclass
class _Download:
    """The download of one file: ``path`` plus ``.part`` grows until it has the SHA-256 that is the file's name."""

    path: Path
    policy: RetryPolicy
    mirrors: list[_Mirror]
    mixing: bool = True  # one mirror may continue what another one began

    def __post_init__(self) -> None:
        self.part = self.path.with_name(f"{self.path.name}.part")
        self.sources = {"an earlier run"} if self.part.exists() else set()

    def run(self) -> None:
        mirror = self.mirrors[0]
        while True:
            time.sleep(max(0.0, mirror.ready - time.monotonic()))
            size = self._size()
            try:
                self._request(mirror)
            except _MirrorError as error:
                self._record(mirror, error, progress=self._size() > size)
            else:
                self.part.replace(self.path)
                return
            mirror = self._next(mirror)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _record(self, mirror: _Mirror, error: _MirrorError, progress: bool) -> None:
        policy = self.policy
        mirror.error = error
        mirror.requests += 1
        mirror.failures = 0 if progress else mirror.failures + 1
        mirror.wrong += error.wrong
        spent = mirror.failures >= policy.tries or mirror.requests >= policy.requests or mirror.wrong >= 2
        mirror.usable = not (error.final or spent)
        pause = min(policy.first_pause * 2 ** max(mirror.failures - 1, 0), policy.longest_pause)
        mirror.ready = time.monotonic() + max(pause, error.wait)

    def _next(self, mirror: _Mirror) -> _Mirror:
        """Stay with a mirror that made progress; otherwise choose the one that may be asked first."""
        now = time.monotonic()
        usable = [other for other in self.mirrors if other.usable]
        if not usable:
            raise self._failure()
        following = mirror if mirror in usable and not mirror.failures else min(usable, key=lambda m: max(m.ready, now))
        action = "retrying" if following is mirror else f"trying {following}"
        when = f" in {round(following.ready - now, 1):g} s" if following.ready > now else ""
        say(f"download: {mirror} {mirror.error.reason}; {action}{when}")
        return following

    def _failure(self) -> PipelineError:
        errors = [mirror.error for mirror in self.mirrors]
        key = errors[0].key if len({error.key for error in errors}) == 1 else "data.location"
        count = f"none of {len(errors)} mirrors returned the file: " if len(errors) > 1 else ""
        reasons = "; ".join(
            f"{mirror} {mirror.error.reason}" + (f" ({mirror.requests} requests)" if mirror.requests > 1 else "")
            for mirror in self.mirrors
        )
        advice = ", or ".join(dict.fromkeys(error.advice for error in errors))
        kept = f" (the {self._size():,} bytes so far are kept, and the next run resumes there)" if self._size() else ""
        return PipelineError(f"{key}: {count}{reasons}; {advice}{kept}")

    def _request(self, mirror: _Mirror) -> None:
        """Complete the file from one mirror, or raise what prevents that."""
        if not self.mixing and not self.sources <= {mirror.url}:
            self._discard()
        offset = self._size() if mirror.ranges else 0
        with _response(mirror.url, offset, self.policy) as response:
            status, place = response.status_code, _place(response, offset)
            if place:
                self._write(mirror, response, *place)
        found = file_sha256(self.part) if self.part.exists() else None
        if found == self.path.name:
            return
        if not place:
            mirror.ranges = False
            raise _MirrorError(f"answered {status} without the requested part of the file")
        unmixed = self.sources == {mirror.url}
        self.mixing &= unmixed
        self._discard()
        if not unmixed:
            raise _MirrorError("completed an earlier partial download to another SHA-256; starting from the beginning")
        advice = "correct it if the publisher states another one, or use another mirror"
        reason = f"returned a file with the SHA-256 {found}, expected {self.path.name}"
        raise _MirrorError(reason, wrong=True, key="data.sha256", advice=advice)

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.sources = set()

    def _write(self, mirror: _Mirror, response: requests.Response, start: int, total: int | None) -> None:
        """Write the body at ``start``; old bytes after it are kept until it is complete, in case it breaks off."""
        chunks = _body(response, self.policy)
        if start == 0:
            chunks = _without_pages(chunks)
        self._check_space(total)
        self.part.touch()
        self.sources.add(mirror.url)
        with self.part.open("r+b") as file:
            file.seek(start)
            for chunk in byte_progress(chunks, start, total, "download"):
                file.write(chunk)
            end = file.tell()
            if end < (total or 1):  # a response of unknown length that is cut off early can be empty
                raise _MirrorError(f"ended after {end:,} bytes" + (f" of {total:,}" if total else ""))
            file.truncate()
        if start == 0:
            self.sources = {mirror.url}

    def _check_space(self, total: int | None) -> None:
        needed, free = (total or 0) - self._size(), shutil.disk_usage(self.part.parent).free
        if needed > free:
            space = f"{needed / 1e6:,.0f} MB more, but {self.part.parent} has {free / 1e6:,.0f} MB free"
            advice = "free some space, or set the environment variable PIPELINE_CACHE to a folder that has enough"
            raise _MirrorError(f"needs {space}", final=True, advice=advice)


def _response(url: str, offset: int, policy: RetryPolicy) -> requests.Response:
    """Request the bytes from ``offset``; return a response 200, 206 or, for a range, 416, with its body unread."""
    # The bytes of a body that is compressed in transit could be neither counted nor resumed.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    timeout = (policy.connect_timeout, policy.read_timeout)
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=timeout)
    except INVALID_ADDRESS as error:
        raise _MirrorError(f"cannot be fetched ({error})", final=True) from None
    except NETWORK_ERRORS as error:
        untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
        raise _MirrorError(f"did not answer ({_cause(error, policy)})", final=untrusted) from None
    status = response.status_code
    if status in (200, 206) or (status == 416 and offset):
        return response
    response.close()
    reason = f"answered {status} ({responses.get(status, 'unknown')})"
    if status not in (408, 425, 429) and status < 500:
        raise _MirrorError(reason, final=True)
    wait = _retry_after(response)
    if wait > policy.longest_pause:
        reason += f" and asks to wait {wait:,.0f} s, more than the limit of {policy.longest_pause:g} s"
    raise _MirrorError(reason, final=wait > policy.longest_pause, wait=wait)


def _retry_after(response: requests.Response) -> float:
    """Return the seconds that the server asks to wait."""
    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except (HTTPError, ValueError, OverflowError):
        return 0.0


def _place(response: requests.Response, offset: int) -> tuple[int, int | None] | None:
    """Return where the body begins in the file and, if known, the file's size; None if not at the requested place."""
    if response.status_code == 200:
        return 0, response.raw.length_remaining
    found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
    if response.status_code != 206 or not found or int(found[1]) != offset:
        return None
    return offset, None if found[2] == "*" else int(found[2])


def _body(response: requests.Response, policy: RetryPolicy) -> Iterator[bytes]:
    """Yield the body undecoded as it arrives; unlike read(), read1() loses no bytes if the connection breaks."""
    try:
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            yield chunk
    except NETWORK_ERRORS as error:
        raise _MirrorError(f"broke off ({_cause(error, policy)})") from None


def _without_pages(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass a file through unless it begins like a web page or a Git LFS pointer."""
    head = b""
    while len(head) < HEAD and (chunk := next(chunks, b"")):
        head += chunk
    kind = kind_of(head)
    if kind in (Kind.POINTER, Kind.PAGE):
        raise _MirrorError(f"returned {describe(head)}" + (", not the file" * (kind is Kind.PAGE)), wrong=True)
    return chain([head], chunks)


def _cause(error: BaseException, policy: RetryPolicy) -> str:
    """Return what caused an error of requests, without the exceptions around it."""
    proxy = "proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    if isinstance(error, requests.ConnectTimeout):
        return f"{proxy}no connection within {policy.connect_timeout:g} s"
    layers = [error]
    while inner := layers[-1].__cause__ or layers[-1].__context__:
        layers.append(inner)
    root = next((layer for layer in reversed(layers) if isinstance(layer, OSError | HTTPException)), error)
    if isinstance(root, TimeoutError) and root.errno is None:
        return f"{proxy}no data for {policy.read_timeout:g} s"
    return proxy + str(getattr(root, "strerror", None) or root or type(root).__name__)
