"""Clients that send nothing, or never the end of a request, do not keep others away."""

import socket
import time
from urllib.parse import urlsplit

import pytest
import requests

from tests.serve.conftest import Server

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
SECONDS = 1.0  # --timeout of the small server


def connect(server, content: bytes = b"") -> socket.socket:
    address = urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    connection.sendall(content)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes a connection, after what it may still send."""
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    "content",
    [b"", HEAD, HEALTH, HEALTH + HEAD, HEALTH * 2 + b"G"],
    ids=["nothing", "a part", "one", "more", "pipelined"],
)
def test_a_connection_without_a_whole_request_is_closed_in_time(small_server, content):
    start = time.monotonic()
    connections = [connect(small_server, content) for _ in range(20)]
    assert all(map(is_closed, connections))
    assert 0.9 * SECONDS < time.monotonic() - start < 10
    assert requests.get(f"{small_server.url}/health", timeout=20).json()["status"] == "ok"


@pytest.mark.parametrize("first", [b"", HEALTH])
def test_a_head_that_arrives_byte_by_byte_is_not_waited_for(small_server, first):
    connection = connect(small_server, first)
    start = time.monotonic()
    with pytest.raises(ConnectionError):
        while time.monotonic() - start < 20:
            connection.sendall(b"G")
            time.sleep(0.05)
    assert time.monotonic() - start > 0.9 * SECONDS


def test_a_body_that_nobody_reads_is_not_waited_for(small_server):
    # It is answered at once, with 405.
    connection = connect(small_server, b"PUT /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    with pytest.raises(ConnectionError):
        for _ in range(400):
            connection.sendall(b"x")
            time.sleep(0.05)


def test_connections_that_are_used_again_stay_open(small_server):
    with requests.Session() as session:
        for _ in range(8):
            assert session.get(f"{small_server.url}/health", timeout=20).ok
            time.sleep(SECONDS / 4)
        [pool] = session.get_adapter("http://").poolmanager.pools._container.values()
        assert pool.num_connections == 1


def test_more_connections_than_files_may_be_open_are_closed_and_the_server_goes_on(model_file):
    few = ("bash", "-c", 'ulimit -n 100; exec "$0" "$@"')
    server = Server(model_file, "--timeout", "2", before=few)
    connections = [connect(server, HEAD) for _ in range(200)]
    assert all(map(is_closed, connections))
    assert requests.get(f"{server.url}/health", timeout=20).json()["status"] == "ok"
    assert server.stop() == (130, server.lines[0])


def test_a_low_limit_of_open_files_is_raised(model_file):
    low = ("bash", "-c", 'ulimit -S -n 100; exec "$0" "$@"')
    server = Server(model_file, before=low)
    connections = [connect(server, HEAD) for _ in range(200)]
    assert requests.get(f"{server.url}/health", timeout=20).json()["status"] == "ok"
    for connection in connections:
        connection.close()
    assert server.stop() == (130, server.lines[0])
