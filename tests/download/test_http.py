"""Downloads from servers that fail in every way end with the right file or with one clear message."""

import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from pipeline.download import http
from pipeline.download.cache import cache_folder
from pipeline.download.http import RetryPolicy, fetch
from pipeline.errors import PipelineError
from tests.support.faulty_server import (
    CONTENT,
    SLOW,
    Site,
    another_range,
    chunked,
    cut,
    drip,
    endless,
    endless_part,
    garbage,
    good,
    labelled_gzip,
    long_lie,
    no_range,
    page,
    redirect,
    says,
    short_lie,
    silent,
    two_lengths,
    with_,
    without_length,
    without_ranges,
    wrong_byte,
    wrong_range,
)
from tests.support.small_disks import small_disk

ROOT = Path(__file__).parents[2]
SHORT = RetryPolicy(connect_timeout=2, read_timeout=0.2, tries=3, requests=50, first_pause=0.001, longest_pause=0.01)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(workspace, monkeypatch):
    """The cache, which does not exist yet; no proxy between the test and its server."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("PIPELINE_CACHE", str(workspace / "cache"))
    return workspace / "cache"


@pytest.fixture
def serve(cache):
    """Start servers that answer in the given ways."""
    sites = []

    def start(*ways, content=CONTENT):
        sites.append(Site(*ways, content=content))
        return sites[-1]

    yield start
    for site in sites:
        site.shutdown()
        site.server_close()


def fetched(*sites, content=CONTENT, policy=SHORT):
    """Fetch from sites (or URLs) and return the file in the cache."""
    with fetch([getattr(site, "url", site) for site in sites], sha256(content), policy) as file:
        assert not part(content).exists()
        assert (cache_folder() / sha256(content)).stat().st_ino == os.fstat(file.fileno()).st_ino
        return file.read()


def part(content=CONTENT):
    return cache_folder() / f"{sha256(content)}.part"


def complaint(*sites, content=CONTENT, policy=SHORT):
    """The one-line message with which a download fails."""
    with pytest.raises(PipelineError) as error:
        fetched(*sites, content=content, policy=policy)
    assert len(str(error.value).splitlines()) == 1
    assert not (cache_folder() / sha256(content)).exists()
    return str(error.value)


def no_server():
    """A URL without a server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/photos.zip"


def until(condition):
    deadline = time.monotonic() + SLOW
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


class TestCache:
    def test_a_file_is_fetched_once(self, serve):
        site = serve(good)
        assert fetched(site) == CONTENT
        assert fetched(site) == CONTENT
        assert fetched(no_server()) == CONTENT
        assert len(site.requests) == 1

    def test_a_damaged_file_is_fetched_again_with_a_message(self, serve, cache, capsys):
        cache.mkdir()
        (cache / sha256(CONTENT)).write_bytes(CONTENT[:-1])
        assert fetched(serve(good)) == CONTENT
        assert f"download: {cache / sha256(CONTENT)} is damaged" in capsys.readouterr().out

    def test_folder_is_that_of_the_variable_or_the_user(self, cache, monkeypatch):
        assert cache_folder() == cache
        monkeypatch.delenv("PIPELINE_CACHE")
        assert cache_folder().name == "image-classification-pipeline"

    def test_a_folder_that_cannot_be_created_is_refused(self, serve, cache):
        cache.write_text("a file")
        message = complaint(serve(good))
        assert message.startswith("data.location: cannot download into ")
        assert "PIPELINE_CACHE" in message

    def test_a_read_only_file_is_used(self, serve, cache):
        assert fetched(serve(good)) == CONTENT
        for name in (".lock", ".part"):
            shutil.rmtree(cache / f"{sha256(CONTENT)}{name}", ignore_errors=True)
            (cache / f"{sha256(CONTENT)}{name}").unlink(missing_ok=True)
            (cache / f"{sha256(CONTENT)}{name}").mkdir()  # so that neither can be written
        assert fetch([no_server()], sha256(CONTENT), SHORT).read() == CONTENT


class TestResume:
    @pytest.mark.parametrize("how", ["close", "reset", "hang"])
    def test_continues_after_a_broken_connection(self, serve, how):
        site = serve(with_(cut, how=how), good)
        assert fetched(site) == CONTENT
        assert site.offsets()[0] == 0
        assert 0 < site.offsets()[1] <= 60_000
        assert how == "reset" or (site.offsets()[1], site.sent) == (60_000, 100_000)

    def test_continues_in_a_later_run(self, serve, cache):
        site = serve(cut, says(404))
        message = complaint(site)
        assert "(the 60,000 bytes so far are kept, and the next run resumes there)" in message
        assert part().read_bytes() == CONTENT[:60_000]
        again = serve(good)
        assert fetched(again) == CONTENT
        assert (again.offsets(), again.sent) == ([60_000], 40_000)

    def test_continues_from_another_mirror(self, serve):
        one, two = serve(cut, says(404)), serve(good)
        assert fetched(one, two) == CONTENT
        assert two.offsets() == [60_000]

    def test_stays_with_a_mirror_that_makes_progress(self, serve):
        one, two = serve(*[with_(cut, share=0.5)] * 5, good), serve(good)
        assert fetched(one, two) == CONTENT
        assert (len(one.requests), len(two.requests)) == (6, 0)

    @pytest.mark.parametrize("way", [without_ranges, no_range, another_range, chunked, without_length, labelled_gzip])
    def test_succeeds_with_a_server_without_ranges(self, serve, way):
        site = serve(cut, way, way if way is no_range else without_ranges)
        assert fetched(site) == CONTENT
        assert len(site.requests) <= 3

    def test_a_server_without_ranges_does_not_shorten_the_part(self, serve):
        complaint(serve(cut, says(404)))
        complaint(serve(with_(without_ranges, share=0.2), says(404)))
        assert part().read_bytes() == CONTENT[:60_000]

    @pytest.mark.parametrize("way", [another_range, with_(another_range, by=-100), no_range])
    def test_another_range_than_requested_does_not_damage_the_part(self, serve, way):
        complaint(serve(cut, way, says(404)))
        assert part().read_bytes() == CONTENT[:60_000]

    def test_a_web_page_does_not_damage_the_part(self, serve):
        site = serve(cut, page, good)
        assert fetched(site) == CONTENT
        assert site.offsets() == [0, 60_000, 60_000]

    def test_a_complete_part_is_not_fetched_again(self, serve, cache):
        cache.mkdir()
        part().write_bytes(CONTENT)
        site = serve(no_range)
        assert fetched(site) == CONTENT
        assert site.sent == 0

    @pytest.mark.parametrize("left", [b"x" * 50_000, b"x" * 100_000, b"x" * 150_000, b""], ids=len)
    @pytest.mark.parametrize("way", [good, no_range, without_ranges])
    def test_a_wrong_part_of_an_earlier_run_is_not_held_against_a_mirror(self, serve, cache, way, left):
        cache.mkdir()
        part().write_bytes(left)
        site = serve(no_range if way is good and len(left) >= len(CONTENT) else way)
        assert fetched(site) == CONTENT
        assert way is not without_ranges or len(site.requests) == 1

    def test_a_wrong_part_of_an_earlier_run_does_not_excuse_a_whole_wrong_file(self, serve, cache):
        cache.mkdir()
        part().write_bytes(b"x" * 50_000)
        site = serve(with_(without_ranges, wrong=True))
        complaint(site)
        assert len(site.requests) == 2

    def test_parts_of_different_files_are_not_mixed_again(self, serve):
        other = random.Random(1).randbytes(len(CONTENT))
        wrong, right = serve(*[cut, says(500)] * 9, content=other), serve(good)
        assert fetched(wrong, right) == CONTENT
        assert right.offsets() == [60_000, 0]


class TestWrongFile:
    def test_from_the_only_mirror_is_an_error_after_the_second_time(self, serve, cache):
        site = serve(wrong_byte)
        message = complaint(site)
        assert message.startswith(f"data.sha256: {site.url} returned a file with the SHA-256 ")
        assert f"expected {sha256(CONTENT)} (2 requests); correct it " in message
        assert len(site.requests) == 2
        assert [file.suffix for file in cache.iterdir()] == [".lock"]

    def test_of_the_same_size_is_replaced_from_another_mirror(self, serve):
        one, two = serve(wrong_byte), serve(good)
        assert fetched(one, two) == CONTENT
        assert len(one.requests) == 1

    def test_a_length_that_is_too_short_is_noticed(self, serve):
        assert fetched(serve(short_lie, good)) == CONTENT
        assert complaint(serve(short_lie), content=b"x" + CONTENT).startswith("data.sha256: ")

    def test_a_length_that_is_too_long_is_noticed(self, serve):
        assert fetched(serve(long_lie, good, no_range)) == CONTENT

    def test_a_web_page_is_named_as_such(self, serve):
        site = serve(page)
        message = complaint(site)
        found = f"{site.url} returned a web page (HTML), titled 'Please log & in', not the file (2 requests)"
        assert message.startswith(f"data.location: {found}; check the address ")

    def test_a_web_page_without_a_title_is_named_as_such(self, serve):
        assert "returned a web page (HTML), not the file" in complaint(serve(with_(page, text="\n <HTML lang='en'>no")))

    def test_a_pointer_of_git_lfs_is_named_as_such(self, serve):
        content = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100000\n"
        assert "returned a Git LFS pointer, not the file" in complaint(serve(good, content=content))

    def test_a_compressed_file_is_not_decoded(self, serve):
        site = serve(labelled_gzip)
        assert fetched(site) == CONTENT
        assert site.requests[0].headers["accept-encoding"] == "identity"


class TestRetries:
    def test_pauses_grow_and_are_printed(self, serve, capsys):
        site = serve(*[says(503)] * 4, good)
        policy = RetryPolicy(tries=5, first_pause=0.1, longest_pause=0.3)
        assert fetched(site, policy=policy) == CONTENT
        assert capsys.readouterr().out.splitlines() == [
            f"download: {site.url} answered 503 (Service Unavailable); retrying in {pause} s"
            for pause in (0.1, 0.2, 0.3, 0.3)
        ]
        pauses = [after - before for before, after in zip(site.times, site.times[1:], strict=False)]
        assert all(pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.3, 0.3), strict=True))

    @pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
    def test_ends_after_its_tries(self, serve, code):
        site = serve(says(code))
        message = complaint(site)
        assert message.startswith(f"data.location: {site.url} answered {code} (")
        assert "(3 requests); check the address " in message
        assert len(site.requests) == 3

    def test_counts_tries_from_the_last_new_byte(self, serve):
        site = serve(*[with_(cut, share=0.3), says(500), says(500)] * 5, good)
        assert fetched(site) == CONTENT

    def test_ends_even_if_each_try_brings_a_byte(self, serve):
        site = serve(lambda request: request.body(request.answer()[:5000]))
        complaint(site, policy=RetryPolicy(tries=3, requests=7, first_pause=0.001))
        assert len(site.requests) == 7

    @pytest.mark.parametrize("code", [302, 400, 401, 403, 404, 410])
    def test_permanent_errors_are_not_retried(self, serve, code):
        site = serve(says(code))
        assert complaint(site).startswith(f"data.location: {site.url} answered {code} (")
        assert len(site.requests) == 1

    @pytest.mark.parametrize("form", ["seconds", "date"])
    def test_waits_as_long_as_the_server_asks(self, serve, form, capsys):
        wait = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
        site = serve(says(429, f"Retry-After: {wait}"), good)
        assert fetched(site, policy=RetryPolicy(first_pause=0.001)) == CONTENT
        assert site.times[1] - site.times[0] >= 0.9  # a date has whole seconds
        assert "answered 429 (Too Many Requests); retrying in " in capsys.readouterr().out

    @pytest.mark.parametrize("wait", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT", "9" * 5000, "soon", "-5"])
    def test_does_not_wait_too_long(self, serve, wait):
        busy = says(429, f"Retry-After: {wait}")
        site = serve(busy)
        start = time.monotonic()
        message = complaint(site)
        assert time.monotonic() - start < 30
        if wait[0] in "3WMTFS":
            assert "and asks to wait " in message
            assert len(site.requests) == 1
            assert fetched(site, serve(good)) == CONTENT

    @pytest.mark.parametrize(
        "way", [silent, with_(cut, how="hang", share=0.0), garbage, with_(garbage, content=b"hm\n" * 9)]
    )
    def test_servers_that_send_nothing_or_nonsense_are_retried(self, serve, way):
        site = serve(way)
        assert complaint(site).startswith(f"data.location: {site.url} ")
        assert len(site.requests) == 3
        assert fetched(serve(way, good)) == CONTENT


class TestSlowServers:
    POLICY = RetryPolicy(
        connect_timeout=0.1, read_timeout=0.2, tries=2, first_pause=0.001, least_rate=1000.0, rate_time=0.3
    )
    STARTS = (
        b"HTTP/1.1 200 OK\r\nX-Drip: ",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;note=",
        b"HTTP/1.1 100 Continue\r\n",
        b"",
    )

    @pytest.mark.parametrize("way", [drip, *(with_(drip, start=start) for start in STARTS)])
    def test_one_that_sends_a_byte_now_and_then_is_given_up(self, serve, way):
        site, start = serve(way), time.monotonic()
        assert re.search(r" sent only \d+ bytes in \d s \(2 requests\); ", complaint(site, policy=self.POLICY))
        assert time.monotonic() - start < 5
        assert len(site.requests) == 2

    def test_another_mirror_is_tried(self, serve):
        slow, fast = serve(drip), serve(good)
        assert fetched(slow, fast, policy=self.POLICY) == CONTENT
        assert len(slow.requests) == 1

    def test_one_that_is_faster_than_the_limit_is_used(self, serve):
        def steady(request):
            rest = request.answer()
            for start in range(0, len(rest), 5000):
                time.sleep(0.05)
                request.body(rest[start : start + 5000])

        site = serve(steady)
        assert fetched(site, policy=self.POLICY) == CONTENT
        assert len(site.requests) == 1


class TestMirrors:
    def test_are_tried_in_order(self, serve):
        sites = [serve(says(404)), serve(says(503)), serve(good), serve(good)]
        assert fetched(*sites) == CONTENT
        assert [len(site.requests) for site in sites] == [1, 1, 1, 0]

    def test_are_tried_without_a_pause_before_the_first_is_retried(self, serve):
        start = time.monotonic()
        assert fetched(serve(says(503)), serve(good), policy=RetryPolicy(first_pause=30)) == CONTENT
        assert time.monotonic() - start < 10

    def test_are_listed_with_their_reasons(self, serve):
        sites = [serve(says(404)), serve(page), serve(wrong_byte)]
        message = complaint(*sites, no_server())
        assert message.startswith(
            f"data.location: none of 4 mirrors returned the file: {sites[0].url} answered 404 (Not Found)"
        )
        for reason in (
            "returned a web page",
            "returned a file with the SHA-256",
            "did not answer (Connection refused)",
        ):
            assert reason in message

    def test_duplicates_are_ignored(self, serve):
        site = serve(says(404))
        assert "mirrors" not in complaint(site, site)


class TestAddress:
    @pytest.mark.parametrize(
        "url",
        [
            "http://",
            "http://[photos.zip",
            "http://a b/c",
            "http://host:port/",
            "http://*.example/",
            "https://\n/x",
            "http://.",
        ],
    )
    def test_invalid_is_refused(self, cache, url):
        message = complaint(url)
        assert message.startswith("data.location: http")
        assert "cannot be fetched (" in message

    def test_without_a_server_is_an_error(self, cache):
        url = no_server()
        assert complaint(url).startswith(f"data.location: {url} did not answer (Connection refused) (3 requests); ")

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    def test_redirected_is_followed(self, serve, code):
        site = serve(cut, with_(redirect, code=code), good)
        assert fetched(site) == CONTENT
        assert site.offsets() == [0, 60_000, 60_000]

    def test_redirected_in_a_circle_is_refused(self, serve):
        message = complaint(serve(redirect))
        assert "cannot be fetched (Exceeded 30 redirects.); " in message

    @pytest.mark.parametrize("to", ["ftp://127.0.0.1/photos.zip", "http://[", "http://", "//"])
    def test_redirected_to_an_invalid_one_is_refused(self, serve, to):
        assert "cannot be fetched (" in complaint(serve(with_(redirect, to=to)))

    def test_redirected_to_a_file_or_from_https_to_http_is_refused(self, serve):
        assert "cannot be fetched (No connection adapters" in complaint(serve(with_(redirect, to="file:///etc/passwd")))
        response = requests.Response()
        response.status_code, response.url = 302, "https://127.0.0.1/photos.zip"
        for target in ("https://127.0.0.1/b", "/b"):
            response.headers["Location"] = target
            assert http._Session().get_redirect_target(response) == target
        response.headers["Location"] = "HTTP://127.0.0.1/b"
        with pytest.raises(ValueError, match="a redirect from https to http is refused"):
            http._Session().get_redirect_target(response)

    @pytest.mark.parametrize("way", [says(403), page, silent, with_(redirect, to="http://me:secret@[/"), wrong_byte])
    def test_shows_no_password(self, serve, capsys, way):
        site = serve(way)
        message = complaint(site.url.replace("//", "//me:secret@"), no_server().replace("//", "//me:secret@"))
        assert "secret" not in message + "".join(capsys.readouterr())
        assert site.url.replace("//", "//***@") in message
        assert site.requests[0].headers["authorization"].startswith("Basic ")


class TestDiskSpace:
    def test_is_checked_first(self, serve, cache):
        site = serve(lambda request: request.body(request.answer(length=10**18)))
        message = complaint(site)
        assert message.startswith(f"data.location: {site.url} needs 1,000,000,000,000 MB more, but {cache} has ")
        assert "PIPELINE_CACHE" in message
        assert not part().exists()

    def test_is_not_filled_by_a_file_without_a_length(self, serve, workspace):
        (workspace / "disk").mkdir()
        site = serve(endless)
        code = f"from pipeline.download.http import fetch; fetch([{site.url!r}], '0' * 64)"
        command = [*small_disk(workspace / "disk", "20M"), sys.executable, "-c", code]
        environment = {**os.environ, "PIPELINE_CACHE": str(workspace / "disk")}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        message = done.stderr.splitlines()[-1]
        assert "sends more than the 21 MB that fit into" in message
        assert "without a length; free some space" in message
        assert message.endswith("PIPELINE_CACHE to a folder that has enough")

    def test_is_not_filled_by_a_file_that_is_longer_than_stated(self, serve):
        site = serve(endless_part)
        assert " states a size of 20,000 bytes, but sends more; " in complaint(site)
        assert site.offsets() == [0]
        assert not part().exists()

    def test_is_not_filled_by_the_rest_of_a_file_and_its_beginning_is_kept(self, serve):
        message = complaint(serve(with_(cut, share=0.5), says(404)), serve(endless_part))
        assert " states a size of 70,000 bytes, but sends more" in message
        assert part().read_bytes() == CONTENT[:50_000]

    def test_that_runs_out_while_writing_is_an_error(self, serve, cache):
        code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
        child = start_process(serve(good), code)
        _, errors = child.communicate(timeout=2 * SLOW)
        assert errors.splitlines()[-1].startswith("pipeline.errors.PipelineError: data.location: cannot download into ")
        assert "(File too large)" in errors
        assert part().read_bytes() == CONTENT[:50_000]
        assert fetched(serve(good)) == CONTENT


def start_process(site, before="pass"):
    """Start another process that fetches, like a second clone."""
    code = f"{before}; from pipeline.download.http import fetch; fetch([{site.url!r}], {sha256(CONTENT)!r})"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # The data file of coverage would exceed a limit that a test sets.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment["PYTHONUNBUFFERED"] = "1"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, **pipes)


class TestProcesses:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
    def test_one_that_is_killed_keeps_its_part(self, serve, number):
        site = serve(with_(cut, how="hang"), good)
        child = start_process(site)
        until(lambda: part().exists() and part().stat().st_size == 60_000)
        child.send_signal(number)
        child.communicate(timeout=2 * SLOW)
        assert fetched(site) == CONTENT
        assert (site.offsets(), site.sent) == ([0, 60_000], 100_000)

    def test_two_at_once_fetch_once(self, serve):
        meet = threading.Event()

        def slow(request):
            rest = request.answer()
            request.body(rest[:1000])
            meet.wait(SLOW)
            request.body(rest[1000:])

        site = serve(slow)
        first = start_process(site)
        until(lambda: site.requests)
        second = start_process(site)
        line = second.stdout.readline()
        meet.set()
        assert line.startswith("download: waits for another process ")
        for child in (first, second):
            assert child.communicate(timeout=2 * SLOW)[1] == ""
            assert child.returncode == 0
        assert len(site.requests) == 1
        assert fetched(site) == CONTENT


def forward(request):
    """Act as a proxy: fetch from the server that the request names."""
    if request.method == "CONNECT":
        says(403)(request)
        return
    address = urlsplit(request.target)
    with socket.create_connection((address.hostname, address.port)) as server:
        lines = [
            f"GET {address.path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in request.headers.items()),
            "",
            "",
        ]
        server.sendall("\r\n".join(lines).encode())
        while content := server.recv(65536):
            request.connection.sendall(content)


class TestProxy:
    @pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
    def test_is_that_of_the_environment(self, serve, monkeypatch, name):
        site, proxy = serve(cut, good), serve(forward)
        monkeypatch.setenv(name, f"http://{proxy.address}")
        assert fetched(site) == CONTENT
        assert [request.target for request in proxy.requests] == [site.url] * 2
        assert site.offsets() == [0, 60_000]

    def test_is_not_used_for_hosts_in_no_proxy(self, serve, monkeypatch):
        site, proxy = serve(good), serve(forward)
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert fetched(site) == CONTENT
        assert not proxy.requests

    def test_that_refuses_or_is_missing_is_named(self, serve, monkeypatch):
        proxy = serve(forward)
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{proxy.address}")
        message = complaint("https://files.example/photos.zip")
        assert "did not answer (proxy: Tunnel connection failed: 403 Whatever)" in message
        assert proxy.requests[0].target == "files.example:443"
        monkeypatch.setenv("HTTP_PROXY", no_server().replace("//", "//me:secret@"))
        assert "did not answer (proxy: Connection refused)" in complaint("http://files.example/photos.zip")


def random_script(draw):
    """Up to eight faults and the final way to answer, and whether the file is certain to come in the end."""
    share = draw.random()
    harmless = [
        *[with_(cut, share=share, how=how) for how in ("close", "reset")] * 2,
        *[says(draw.choice([408, 425, 429, 500, 502, 503]), *header) for header in ([], ["Retry-After: 0"])],
        *[with_(garbage, content=content) for content in (b"", draw.randbytes(50), b"HTTP/1.1 200 OK\r\nContent-Le")],
        *[with_(chunked, share=0.9 * share), with_(without_ranges, share=share)],
        *[long_lie, another_range, no_range, redirect, labelled_gzip],
    ]
    wrong = [short_lie, wrong_range, page, with_(wrong_byte, at=share), with_(without_length, share=share)]
    final = [says(draw.choice([401, 403, 404])), with_(redirect, to="ftp://127.0.0.1/"), two_lengths]
    kinds = draw.choices([harmless, wrong, final], [85, 12, 3], k=draw.randint(0, 8))
    ways = [draw.choice(kind) for kind in kinds]
    if draw.random() < 0.1:
        ways.insert(draw.randint(0, len(ways)), draw.choice([silent, with_(cut, share=share, how="hang")]))
    ending = draw.choice([good, good, no_range, without_ranges, says(500), says(404), wrong_byte, page])
    sure = ending in (good, no_range, without_ranges) and final not in kinds and kinds.count(wrong) <= 1
    return [*ways, ending], sure


@pytest.mark.parametrize("seed", [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 200))])
def test_random_faults_end_with_the_right_file_or_one_message(serve, cache, seed):
    draw = random.Random(seed)
    content = draw.randbytes(int(1000 * 300 ** draw.random()))
    scripts = [random_script(draw) for _ in range(draw.randint(1, 3))]
    sites = [serve(*ways, content=content) for ways, _ in scripts]
    if draw.random() < 0.2:
        cache.mkdir()
        part(content).write_bytes(draw.choice([content, draw.randbytes(len(content))])[: draw.randint(0, len(content))])
    # More tries than faults, since not every fault brings bytes and so resets the count.
    policy = RetryPolicy(
        connect_timeout=2, read_timeout=0.2, tries=12, requests=100, first_pause=0.001, longest_pause=0.01
    )
    try:
        assert fetched(*sites, content=content, policy=policy) == content
    except PipelineError as error:
        assert not any(sure for _, sure in scripts), error
        assert len(str(error).splitlines()) == 1
        assert str(error).startswith(("data.location: ", "data.sha256: "))
        assert not (cache / sha256(content)).exists()
