"""A web server that fails in every way that servers do."""

import functools
import random
import select
import socket
import socketserver
import struct
import sys
import threading
import time

CONTENT = random.Random(0).randbytes(100_000)
SLOW = 50.0  # seconds that a test waits for another thread or process before it fails


class Request:
    """A request, and ways to answer it."""

    def __init__(self, site, connection, head):
        self.site, self.connection, self.content = site, connection, site.content
        lines = head.decode("latin1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ")
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        self.offset = self.asked = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def head(self, code, *headers):
        lines = [f"HTTP/1.1 {code} Whatever", "Connection: close", *headers, "", ""]
        self.connection.sendall("\r\n".join(lines).encode())

    def body(self, content):
        self.site.sent += len(content)  # first: the client may be done before this thread continues
        self.connection.sendall(content)

    def answer(self, *headers, length=None):
        """Send the head for the requested part of the file, and return the body."""
        rest, size = self.content[self.offset :], len(self.content)
        place = [f"Content-Range: bytes {self.offset}-{size - 1}/{size}"] * bool(self.offset)
        length = len(rest) if length is None else length
        self.head(206 if self.offset else 200, *place, f"Content-Length: {length}", *headers)
        return rest

    def reset(self):
        """End the connection like a crash: what the client has not read yet is lost."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def hang(self):
        """Send nothing more until the client gives up."""
        select.select([self.connection], [], [], SLOW)


class Site(socketserver.ThreadingTCPServer):
    """A web server that answers each request in another way, all later ones in the last way, and records them."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *ways, content=CONTENT):
        site, self.content, self.script, guard = self, content, list(ways), threading.Lock()
        self.requests, self.times, self.sent = [], [], 0

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                head = b""
                while b"\r\n\r\n" not in head:
                    part = self.request.recv(65536)
                    if not part:
                        return
                    head += part
                request = Request(site, self.request, head.partition(b"\r\n\r\n")[0])
                with guard:
                    site.requests.append(request)
                    site.times.append(time.monotonic())
                    way = site.script.pop(0) if len(site.script) > 1 else site.script[0]
                way(request)

        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.url = f"http://{self.address}/photos.zip"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # the client gave up
            super().handle_error(request, client_address)

    def offsets(self):
        return [request.asked for request in self.requests]


# Ways to answer: correct, interrupted, wrong, refused. with_ sets the arguments of a way except the request.
with_ = functools.partial


def good(request):
    request.body(request.answer())


def without_ranges(request, share=1.0, wrong=False):
    request.offset, request.content = 0, request.content[::-1] if wrong else request.content
    cut(request, share)


def no_range(request):
    if request.offset:
        request.head(416, f"Content-Range: bytes */{len(request.content)}", "Content-Length: 0")
    else:
        good(request)


def chunked(request, share=1.0):
    request.head(200, "Transfer-Encoding: chunked")
    for start in range(0, int(share * len(request.content)), 5000):
        part = request.content[start : start + 5000]
        request.body(f"{len(part):x};note=1\r\n".encode() + part + b"\r\n")
    if share == 1.0:
        request.body(b"0\r\n\r\n")


def without_length(request, share=1.0):
    request.head(200)
    request.body(request.content[: int(share * len(request.content))])


def labelled_gzip(request):
    request.body(request.answer("Content-Encoding: gzip"))


def cut(request, share=0.6, how="close"):
    rest = request.answer()
    request.body(rest[: int(share * len(rest))])
    if how == "reset":
        time.sleep(0.01)  # some of it arrives
        request.reset()
    elif how == "hang":
        request.hang()


def silent(request):
    request.hang()


def garbage(request, content=b""):
    request.connection.sendall(content)


def long_lie(request):
    request.body(request.answer(length=len(request.content) - request.offset + 1000))


def short_lie(request):
    request.body(request.answer(length=(len(request.content) - request.offset) // 2))


def two_lengths(request):
    request.body(request.answer(f"Content-Length: {len(request.content) + 1}"))


def wrong_byte(request, at=0.5):
    place = int(at * len(request.content))
    request.content = request.content[:place] + bytes([request.content[place] ^ 1]) + request.content[place + 1 :]
    good(request)


def wrong_range(request):
    """Announce the rest, and send the beginning."""
    request.body(request.content[: len(request.answer())])


def another_range(request, by=100):
    size = len(request.content)
    start = max(0, min(request.offset + by, size - 1))
    request.head(206, f"Content-Range: bytes {start}-{size - 1}/{size}", f"Content-Length: {size - start}")
    request.body(request.content[start:])


def says(code, *headers):
    def way(request):
        request.head(code, "Content-Length: 4", *headers)
        request.body(b"oops")

    return way


def drip(request, start=None):
    """Send a byte now and then: of the body, or of what begins with ``start``."""
    if start is None:
        request.answer()
    else:
        request.connection.sendall(start)
    while True:
        time.sleep(0.02)
        request.connection.sendall(b"a")


def endless(request):
    """A body without a length and without an end."""
    request.head(200)
    while True:
        request.body(bytes(2**16))


def endless_part(request, stated=20_000):
    """The right beginning of a part with a stated size, and then no end."""
    end = request.offset + stated
    request.head(206, f"Content-Range: bytes {request.offset}-{end - 1}/{end}", "Transfer-Encoding: chunked")
    request.body(b"%x\r\n%b\r\n" % (stated, request.content[request.offset : end]))
    while True:
        request.body(b"10000\r\n" + bytes(2**16) + b"\r\n")


def redirect(request, code=302, to="/elsewhere"):
    request.head(code, f"Location: {to}", "Content-Length: 0")


def page(request, text="\ufeff<!DOCTYPE html>\n<html><head><title>Please\nlog &amp; in</title></head></html>"):
    request.content, request.offset = text.encode(), 0
    good(request)
