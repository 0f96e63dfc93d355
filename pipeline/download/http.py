"""Downloads files over HTTP into the cache: from mirrors, resuming what was interrupted, and checked by SHA-256."""

import io
import os
import queue
import re
import shutil
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, responses
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from pipeline.common.file_types import HEAD, Kind, describe, kind_of
from pipeline.common.text import one_line
from pipeline.download.cache import UnusableError, cache_folder, content_sha256, locked, partial_file, verified
from pipeline.errors import PipelineError
from pipeline.progress import byte_progress, say

CHUNK = 256 * 1024  # bytes
SPACE_LEFT = 100_000_000  # bytes of the disk, but at most 1 %
# What requests raises, for a request or while reading; some errors of urllib3 and http.client are not wrapped.
NETWORK_ERRORS = (requests.RequestException, HTTPError, HTTPException, ValueError)


@dataclass(frozen=True)
class RetryPolicy:
    """When to retry a mirror and when to give up; times are in seconds, counts are per mirror."""

    connect_timeout: float = 15.0
    read_timeout: float = 60.0  # without a byte
    tries: int = 6  # in a row that add no bytes
    requests: int = 300  # in all
    first_pause: float = 1.0  # doubled after each further try that adds no bytes
    longest_pause: float = 60.0
    least_rate: float = 100.0  # bytes per second, as an average over
    rate_time: float = 60.0


RETRY_POLICY = RetryPolicy()


def fetch(urls: Sequence[str], sha256: str, policy: RetryPolicy = RETRY_POLICY) -> IO[bytes]:
    """Open the verified file in the cache, after downloading it if necessary.

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
        with suppress(FileNotFoundError, UnusableError):
            return verified(path, sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            try:
                return verified(path, sha256)
            except UnusableError as error:
                say(f"download: {path} {error}; fetching it again")
                path.unlink()
            except FileNotFoundError:
                pass
            return _Download(path, policy, [_Mirror(url) for url in dict.fromkeys(urls)]).run()
    except OSError as error:
        raise PipelineError(
            f"data.location: cannot download into {error.filename or path.parent} ({error.strerror or error}); "
            "fix that, or set the environment variable PIPELINE_CACHE to a folder with enough space"
        ) from None


@dataclass(eq=False)
class _MirrorError(Exception):
    """Why a request did not complete the file; ``reason`` follows the URL in messages."""

    reason: str
    final: bool = False  # do not ask this mirror again
    wait: float = 0.0  # seconds that the server asks to wait
    wrong: bool = False  # the content is not that of the file
    slow: bool = False  # its bytes are too few to count as progress
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
        self.file = partial_file(self.part)  # open until the end, so that no other file can take its place
        self.sources = {"an earlier run"} if self._size() else set()

    def run(self) -> IO[bytes]:
        """Return the complete file, opened."""
        try:
            self._ask()
            self.part.replace(self.path)
        except BaseException:
            if not self._size():
                self.part.unlink(missing_ok=True)
            self.file.close()
            raise
        self.file.seek(0)
        return io.BufferedReader(self.file)

    def _ask(self) -> None:
        mirror = self.mirrors[0]
        while True:
            time.sleep(max(0.0, mirror.ready - time.monotonic()))
            size = self._size()
            try:
                return self._request(mirror)
            except _MirrorError as error:
                self._record(mirror, error, progress=self._size() > size and not error.slow)
            mirror = self._next(mirror)

    def _size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

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
        items = _in_time(_answer(mirror.url, offset, self.policy), self.policy)
        try:
            head = next(items)
            assert isinstance(head, _Head)
            status, place = head.status, head.place
            if place:
                self._write(mirror, (item for item in items if isinstance(item, bytes)), *place)
        finally:
            items.close()
        found = content_sha256(self.file) if self._size() else None
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
        self.file.truncate(0)
        self.sources = set()

    def _write(self, mirror: _Mirror, chunks: Iterator[bytes], start: int, total: int | None) -> None:
        """Write the body at ``start``; old bytes after it are kept until it is complete, in case it breaks off."""
        if start == 0:
            chunks = _without_pages(chunks)
        self._check_space((total or 0) - self._size())
        self.sources.add(mirror.url)
        self.file.seek(start)
        for chunk in byte_progress(chunks, start, total, "download"):
            if not total:
                self._check_space(len(chunk), endless=True)
            elif self.file.tell() + len(chunk) > total:
                self._refuse_more(mirror, start, total)
            rest = memoryview(chunk)
            while rest:
                rest = rest[self.file.write(rest) :]
        end = self.file.tell()
        if end < (total or 1):  # a response of unknown length that is cut off early can be empty
            raise _MirrorError(f"ended after {end:,} bytes" + (f" of {total:,}" if total else ""))
        self.file.truncate()
        if start == 0:
            self.sources = {mirror.url}

    def _refuse_more(self, mirror: _Mirror, start: int, total: int) -> NoReturn:
        """Remove what a mirror sent that sends more than it states, without an end perhaps; keep what was there."""
        self.file.truncate(start)
        if start == 0:
            self.sources = set()
        raise _MirrorError(f"states a size of {total:,} bytes, but sends more", final=True)

    def _check_space(self, needed: int, endless: bool = False) -> None:
        """Refuse ``needed`` more bytes that would fill the disk; of an ``endless`` file, what there is is removed."""
        disk = shutil.disk_usage(self.part.parent)
        free = disk.free - min(SPACE_LEFT, disk.total // 100)
        if needed <= free:
            return
        space = f"needs {needed / 1e6:,.0f} MB more, but {self.part.parent} has {disk.free / 1e6:,.0f} MB free"
        if endless:
            space = (
                f"sends more than the {self._size() / 1e6:,.0f} MB that fit into {self.part.parent}, without a length"
            )
            self._discard()
        advice = "free some space, or set the environment variable PIPELINE_CACHE to a folder that has enough"
        raise _MirrorError(space, final=True, advice=advice)


class _Head(NamedTuple):
    """What is known of a response before its body: see ``_place``."""

    status: int
    place: tuple[int, int | None] | None


def _answer(url: str, offset: int, policy: RetryPolicy) -> Generator[_Head | bytes, None, None]:
    """Yield the head of the response to the request for the bytes from ``offset``, and then its body."""
    with _response(url, offset, policy) as response:
        # Its length decreases with what is read of the body.
        yield _Head(response.status_code, _place(response, offset))
        yield from _body(response, policy)


def _in_time(items: Generator[_Head | bytes, None, None], policy: RetryPolicy) -> Generator[_Head | bytes, None, None]:
    """Pass the head and the body on, unless the server is too slow, in whatever it sends: headers, sizes or bytes.

    The timeouts of requests end only the wait for the next byte; so another thread reads, and may be left behind.
    """
    arrived: queue.Queue[_Head | bytes | BaseException | None] = queue.Queue(4)
    ended = threading.Event()

    def put(item: _Head | bytes | BaseException | None) -> None:
        while not ended.is_set():
            with suppress(queue.Full):
                return arrived.put(item, timeout=1)

    def read() -> None:
        try:
            for item in items:
                put(item)
                if ended.is_set():
                    break
            put(None)
        except BaseException as error:
            put(error)
        finally:
            items.close()

    threading.Thread(target=read, name="download", daemon=True).start()
    try:
        limit = policy.connect_timeout + 2 * policy.read_timeout  # of the headers, after redirects
        waited, received = 0.0, 0
        while True:
            start = time.monotonic()
            try:
                item = arrived.get(timeout=limit - waited)
            except queue.Empty:
                item = b""
            waited += time.monotonic() - start
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            received += len(item) if isinstance(item, bytes) else 0
            if waited >= limit:
                if received < policy.least_rate * waited:
                    raise _MirrorError(f"sent only {received:,} bytes in {waited:,.0f} s", slow=True)
                waited, received = 0.0, 0
            if item != b"":
                yield item
            if isinstance(item, _Head):
                limit, waited = policy.rate_time, 0.0
    finally:
        ended.set()


class _Session(requests.Session):
    """Follows no redirect from https to http, which anyone on the way could read and change."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target and resp.url.startswith("https:") and target.lower().startswith("http:"):
            raise requests.exceptions.InvalidSchema("a redirect from https to http is refused")
        return target


def _response(url: str, offset: int, policy: RetryPolicy) -> requests.Response:
    """Request the bytes from ``offset``; return a response 200, 206 or, for a range, 416, with its body unread."""
    # The bytes of a body that is compressed in transit could be neither counted nor resumed.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    timeout = (policy.connect_timeout, policy.read_timeout)
    try:
        response = _Session().get(url, headers=headers, stream=True, timeout=timeout)
    except (requests.TooManyRedirects, requests.exceptions.InvalidSchema) as error:
        raise _MirrorError(f"cannot be fetched ({error})", final=True) from None
    except ValueError:
        # The error shows what it takes for the host: part of a password that contains a /, ? or # as it is.
        problem = "the address, that of a redirect or that of the proxy is not valid; percent-encode special characters"
        raise _MirrorError(f"cannot be fetched ({problem})", final=True) from None
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
