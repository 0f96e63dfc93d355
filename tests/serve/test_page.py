"""The page of the server in a browser."""

import base64
import re

import pytest

from tests.serve.conftest import SPEC
from tests.support.hostile_images import GREY_RGB, PICTURE, encode
from tests.support.pages import is_within_the_screen

DROP = """(base64) => {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
}"""


@pytest.fixture
def opened(chromium, server):
    """Open the page; it may report no errors, and send requests to its server only."""
    problems, contexts = [], []

    def open_page(width: int = 1100, scheme: str = "light", **options):
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(server.url)
        page.get_by_text("classifier, 3 classes").wait_for()
        return page

    requested: list[str] = []
    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in requested if not url.startswith((server.url, "blob:", "data:"))] == []
    # Chromium reports an image that is refused, and a server that takes too long.
    assert [problem for problem in problems if not re.search(r"status of (422|503) ", problem)] == []


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (360, "dark")])
def test_a_chosen_photo_is_shown_with_its_classes_as_bars(opened, width, scheme):
    page = opened(width, scheme)
    page.locator("#files").set_input_files([{"name": "a.png", "mimeType": "image/png", "buffer": encode(PICTURE)}])
    page.locator("li").first.wait_for()
    assert page.locator("article img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 48
    names, shares = page.locator("li span").all_inner_texts(), page.locator("li output").all_inner_texts()
    assert set(names) == set(SPEC.classes)
    widths = page.locator(".bar").evaluate_all("bars => bars.map((bar) => parseFloat(bar.style.width))")
    assert widths == sorted(widths, reverse=True)
    assert shares == [f"{width:.1f} %" for width in widths]
    assert sum(widths) == pytest.approx(100, abs=0.01)
    assert page.locator("article h2").inner_text() in (names[0], "Unsure")
    assert is_within_the_screen(page)


def test_a_photo_unlike_the_training_images_has_a_note_and_an_unsure_one_no_class(opened):
    page = opened()
    page.get_by_text("unsure below the threshold of each class for a precision of 85.0 %").wait_for()
    pictures = {"unsure.png": GREY_RGB, "unlike them.png": PICTURE}
    page.locator("#files").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": encode(each)} for name, each in pictures.items()]
    )
    page.locator("article:not(.waiting)").nth(1).wait_for()
    first, second = page.locator("article").all()
    assert first.locator("h2").inner_text() == SPEC.classes[2]
    [note] = first.locator(".unsure").all_inner_texts()
    assert note.startswith("This photo is unlike the training images")
    assert second.locator("h2").inner_text() == "Unsure"
    [note] = second.locator(".unsure").all_inner_texts()
    assert note.startswith("Perhaps")


def test_a_dropped_photo_is_classified(opened):
    page = opened()
    page.evaluate(DROP, base64.b64encode(encode(PICTURE)).decode())
    page.locator("li").first.wait_for()
    assert page.locator(".name").inner_text() == "dropped.png"


def test_a_file_that_is_no_image_is_said_and_the_others_are_answered(opened):
    page = opened()
    files = [("<b>.jpg", b"no image"), ("good.png", encode(PICTURE)), ("large.png", bytes(7_000_000))]
    page.locator("#files").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files]
    )
    page.locator("article:not(.waiting)").nth(2).wait_for()
    assert page.locator("article .problem").all_inner_texts() == [
        "Not classified: has 7,000,000 bytes, allowed are 6,000,000",
        "Not classified: not an image",
    ]
    assert page.locator(".name").all_inner_texts() == ["large.png", "good.png", "<b>.jpg"]
    assert page.locator("li").count() == 3


def test_the_reason_is_a_picture_in_place_of_the_photo(opened):
    page = opened()
    page.locator("#files").set_input_files([{"name": "a.png", "mimeType": "image/png", "buffer": encode(PICTURE)}])
    page.get_by_role("button", name="Why?").click()
    page.get_by_text("The bright parts speak").wait_for()
    assert page.locator("article img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 256


def test_an_explanation_that_takes_too_long_is_asked_for_once_and_says_why_there_is_none(opened):
    page, asked = opened(), []

    def answer(route):
        asked.append(route.request.url)
        route.fulfill(status=503, json={"error": "no answer within 30 s, the limit of the server"})

    page.route("**/explain", answer)
    page.locator("#files").set_input_files([{"name": "a.png", "mimeType": "image/png", "buffer": encode(PICTURE)}])
    page.get_by_role("button", name="Why?").click()
    page.get_by_text("No explanation: no answer within 30 s, the limit of the server").wait_for()
    assert len(asked) == 1


def test_a_dropped_folder_says_so_without_a_request(opened, tmp_path):
    (tmp_path / "photos").mkdir()
    page = opened()
    area = page.locator("#drop").bounding_box()
    place = {"x": area["x"] + 5, "y": area["y"] + 5}
    data = {"items": [], "files": [str(tmp_path / "photos")], "dragOperationsMask": 1}
    devtools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})
    page.get_by_text("Not classified: it is a folder, or cannot be read; drop the photos themselves").wait_for()


def test_the_camera_is_offered_on_a_phone_only(opened):
    assert not opened().locator("#camera").is_visible()
    camera = opened(390, has_touch=True, is_mobile=True).locator("#camera")
    assert camera.is_visible()
    assert camera.get_attribute("capture") == "environment"


def test_the_first_key_reaches_the_button_and_shows_where_it_is(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    assert page.locator(".button:focus-within").evaluate("label => getComputedStyle(label).outlineWidth") == "3px"
