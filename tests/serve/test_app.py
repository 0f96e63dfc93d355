"""What the web service answers, and what it refuses; all over a socket, from a server in a process of its own."""

import asyncio
import hashlib
import json
import re
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from fastapi import HTTPException, Request
from PIL import Image

from pipeline.images.decoding import decode
from pipeline.network.answers import choose_answers, class_thresholds
from pipeline.predict.files import load_models, predict_files
from pipeline.serve.app import _results
from pipeline.serve.classifying import Limits
from tests.serve.conftest import SPEC
from tests.support.hostile_images import PICTURE, encode, hostile_files, png

PHOTO = encode(PICTURE, "JPEG", quality=95)
HOSTILE = {name: file for name, file in hostile_files().items() if file.pixels is None}


def post(server, *contents: bytes, **options):
    """Send images as the files of a form."""
    files = [("images", (f"photo {number}.jpg", content)) for number, content in enumerate(contents)]
    return requests.post(f"{server.url}/predict", files=files, timeout=20, **options)


def raw_answer(server, head: str, body: bytes = b"") -> tuple[int, dict]:
    """Send bytes as they are; return the status and the JSON of the answer."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + body)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, dict]:
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(65536)
    return int(received.split()[1]), json.loads(received.partition(b"\r\n\r\n")[2])


def test_the_answers_are_those_of_the_command_predict(server, model_files, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    readable = {name: file for name, file in hostile_files().items() if file.pixels is not None}
    paths = []
    for number, file in enumerate(readable.values()):
        paths.append(tmp_path / f"{number:03}")
        paths[-1].write_bytes(file.content)
    models = load_models([model_files / "model.safetensors"])
    expected = predict_files(paths, models, quiet=True)
    assert expected.failures == {}
    # predict takes the ONNX file, too, also beside others.
    both_models = load_models([model_files / "model.onnx", model_files / "model.safetensors"])
    both = predict_files(paths, both_models, quiet=True)
    np.testing.assert_allclose(both.probabilities, expected.probabilities, atol=1e-4)
    assert np.ptp(expected.probabilities, axis=0).min() > 0.5
    judged = [
        choose_answers([spec], expected.probabilities, expected.energies, class_thresholds([spec], None, 0.85, "--"))
        for _, spec in both_models
    ]
    assert judged[0] == judged[1]
    assert set(judged[0].outlier) == {0, 1}
    assert {"unsure", *SPEC.classes[1:]} <= set(judged[0].answer)
    for number, (path, row) in enumerate(zip(paths, expected.probabilities, strict=True)):
        response = requests.post(f"{server.url}/predict", data=path.read_bytes(), headers={"Content-Type": "image/x"})
        [answer] = response.json()["images"]
        found = {each["class"]: each["probability"] for each in answer["top"]}
        assert found == pytest.approx(dict(zip(expected.classes, row, strict=True)), abs=1e-4)
        assert answer["class"] == expected.classes[row.argmax()]
        assert answer["energy"] == pytest.approx(expected.energies[number], abs=1e-3)
        assert answer["outlier"] is bool(judged[0].outlier[number])
        assert answer["unsure"] is (judged[0].answer[number] == "unsure")


def test_a_form_with_several_files_is_answered_in_their_order_with_their_names(server):
    grey = encode(Image.new("RGB", (50, 40), (128, 128, 128)))
    answers = post(server, PHOTO, grey, PHOTO).json()["images"]
    assert [answer["name"] for answer in answers] == ["photo 0.jpg", "photo 1.jpg", "photo 2.jpg"]
    assert answers[0]["top"] == answers[2]["top"] != answers[1]["top"]


def test_an_answer_has_the_top_classes_by_probability(server):
    [answer] = post(server, PHOTO, params={"top": 2}).json()["images"]
    first, second = answer["top"]
    assert first["probability"] >= second["probability"]
    assert (answer["class"], answer["probability"]) == (first["class"], first["probability"])
    [answer] = post(server, PHOTO).json()["images"]
    assert sum(each["probability"] for each in answer["top"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_is_refused_with_the_reason(server, name):
    response = post(server, HOSTILE[name].content)
    assert response.status_code == 422
    [answer] = response.json()["images"]
    assert set(answer) == {"name", "error"}
    assert re.fullmatch(".+", answer["error"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"no image", "not an image"),
        (PHOTO[: len(PHOTO) // 2], "truncated"),
        (png(200_000, 214_748), "more than"),  # 40 GiB of pixels
        (png(20_000, 20_000), "more than"),
        (png(20_000, 4_000), "more than 70,000,000 pixels"),
    ],
    ids=["empty", "text", "truncated", "40 GiB", "20,000 px", "more than the limit"],
)
def test_an_image_that_cannot_be_used_is_refused_as_a_file_and_as_a_body(server, content, reason):
    as_body = requests.post(f"{server.url}/predict", data=content, headers={"Content-Type": "image/png"}, timeout=20)
    for response in (post(server, content), as_body):
        assert response.status_code == 422
        assert reason in response.json()["images"][0]["error"]


def test_good_images_are_answered_although_another_one_is_bad(server):
    response = post(server, PHOTO, b"no image")
    assert response.status_code == 200
    good, bad = response.json()["images"]
    assert "class" in good
    assert bad == {"name": "photo 1.jpg", "error": "not an image"}


def test_an_explanation_is_a_picture_of_one_image(server):
    url = f"{server.url}/explain"
    response = requests.post(url, files={"images": ("a.jpg", PHOTO)}, timeout=20)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert decode(response.content).shape == (256, 256, 3)
    response = requests.post(url, files={"images": ("a.jpg", b"no image")}, timeout=20)
    assert (response.status_code, response.json()) == (422, {"error": "not an image"})
    response = requests.post(url, files=[("images", ("a.jpg", PHOTO))] * 2, timeout=20)
    assert (response.status_code, response.json()) == (422, {"error": "got 2 images, allowed is one"})


def test_a_request_that_is_too_large_is_refused_before_it_is_sent(server):
    head = "POST /predict HTTP/1.1\nHost: x\nContent-Type: image/png\nContent-Length: 42949672960\n\n"
    status, answer = raw_answer(server, head, png(200_000, 214_748))
    assert (status, answer["error"]) == (413, "the request has more than 6,000,000 bytes")


def test_a_request_of_unknown_length_is_refused_at_the_limit(server):
    chunk = b"%x\r\n" % 65536 + bytes(65536) + b"\r\n"
    head = "POST /predict HTTP/1.1\nHost: x\nContent-Type: image/png\nTransfer-Encoding: chunked\n\n"
    status, answer = raw_answer(server, head, chunk * 100)
    assert (status, answer["error"]) == (413, "the request has more than 6,000,000 bytes")


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ({"files": [("images", ("a.jpg", PHOTO))] * 5}, 400, "Maximum number of files is 4"),
        ({"files": [("images", ("a.jpg", PHOTO))], "data": {"top": "3"}}, 400, "'top' of the form is text"),
        ({"data": b"--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "no file"),
        ({"data": b"{}", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "Invalid|no file"),
        ({"data": b"{}", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"json": {}}, 415, "'application/json', allowed are"),
        (
            {"data": PHOTO, "headers": {"Content-Type": "image/jpeg"}, "params": {"top": 0}},
            400,
            "top: .*greater",
        ),
    ],
)
def test_a_wrong_request_is_refused_with_the_reason(server, options, status, reason):
    response = requests.post(f"{server.url}/predict", timeout=20, **options)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert re.search(reason, response.json()["error"])


@pytest.mark.parametrize(("charset", "status"), [("unicode_escape", 200), ("undefined", 400)])
def test_a_name_in_any_charset_is_answered_in_json(server, charset, status):
    body = b'--x\r\nContent-Disposition: form-data; name="a"; filename="\\ud800.png"\r\n\r\n' + PHOTO + b"\r\n--x--\r\n"
    kind = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    response = requests.post(f"{server.url}/predict", data=body, headers=kind, timeout=20)
    assert response.status_code == status
    assert next(iter(response.json())) == ("images" if status == 200 else "error")


def test_unknown_paths_and_methods_are_json_errors(server):
    assert requests.get(f"{server.url}/../../etc/passwd", timeout=20).status_code == 404
    assert requests.get(f"{server.url}/nothing", timeout=20).json() == {"error": "Not Found"}
    assert requests.get(f"{server.url}/predict", timeout=20).status_code == 405


def test_monitors_may_ask_for_the_head_only(server):
    for path in ("/", "/health"):
        response = requests.head(f"{server.url}{path}", timeout=20)
        assert (response.status_code, response.content) == (200, b"")


def test_a_request_that_takes_too_long_is_not_asked_to_come_back():
    async def receive():
        return {"type": "http.request", "body": encode(PICTURE)}

    request = Request({"type": "http", "method": "POST", "headers": [(b"content-type", b"image/png")]}, receive)

    def ask():
        return asyncio.run(_results(request, lambda file: Future(), Limits(10**6, 10**6, 4, 4, 0.2)))

    # In a thread: after tests of pages, the main thread has a running event loop.
    with ThreadPoolExecutor() as thread, pytest.raises(HTTPException) as error:
        thread.submit(ask).result()
    assert (error.value.status_code, error.value.detail) == (503, "no answer within 0.2 s, the limit of the server")
    assert "Retry-After" not in (error.value.headers or {})


def test_health_and_version_describe_the_server(server, model_file):
    assert requests.get(f"{server.url}/health", timeout=20).json() == {"status": "ok", "requests": 0}
    facts = requests.get(f"{server.url}/version", timeout=20).json()
    assert facts["model"] == {
        "file": "model.onnx",
        "sha256": hashlib.sha256(model_file.read_bytes()).hexdigest(),
        "network": "classifier",
    }
    assert facts["classes"] == list(SPEC.classes)
    assert facts["limits"]["images"] == 4
    assert (facts["abstain"], facts["abstain_precision"]) == (None, 0.85)
    assert facts["thresholds"] == [0.7, 0.6, 0.57]


def test_every_answer_has_the_headers_of_security(server):
    for path in ("/", "/page.js", "/health", "/nothing"):
        headers = requests.get(f"{server.url}{path}", timeout=20).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "server" not in headers


def send_a_part(server) -> socket.socket:
    """Send a request without the end of its body, and wait until the server works on it."""
    address = urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n1")
    wait_for_requests(server, 1)
    return connection


def wait_for_requests(server, count: int) -> None:
    while requests.get(f"{server.url}/health", timeout=20).json()["requests"] != count:
        time.sleep(0.01)


def test_beyond_the_queue_clients_are_asked_to_come_back_and_nothing_is_lost(small_server):
    slow = encode(np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8))
    statuses, refused = [], []

    def client():
        while (response := post(small_server, slow)).status_code == 503:
            refused.append(int(response.headers["Retry-After"]))
            time.sleep(0.1)
        statuses.append(response.status_code)

    clients = [threading.Thread(target=client) for _ in range(8)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert statuses == [200] * 8
    assert set(refused) == {1}
    # A request that does not arrive in time is given up.
    with send_a_part(small_server) as connection:
        assert read_answer(connection) == (408, {"error": "the request was not received within 1 s"})
    # A client that goes away frees its place.
    send_a_part(small_server).close()
    wait_for_requests(small_server, 0)
    response = post(small_server, PHOTO)
    assert response.status_code == 200
    assert response.json()["abstain"] == 0.99
    assert response.json()["images"][0]["unsure"]
    # Nothing of this is worth a message.
    assert small_server.stop()[1].count("\n") == 1
