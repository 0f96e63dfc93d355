"""The report in a browser."""

import json
import re

import pytest

from pipeline.common.label_files import read_corrections
from tests.support.pages import is_within_the_screen
from tests.support.report_results import HOSTILE, LAYERS

CHARTS = {
    "epoch-loss",
    "epoch-accuracy",
    "step-loss",
    "step-gradient_norm",
    "step-lr",
    "confusion-chart",
    "classes-chart",
    "roc",
    "precision-recall",
    "reliability-chart",
    "risk-coverage",
    "confidences",
    "tsne-chart",
}
POINTS = "#tsne-chart .mark-symbol.role-mark path"
MARKS = """() => Object.fromEntries([...document.querySelectorAll(".chart")].map((chart) => {
  const marks = [...chart.querySelectorAll(".role-mark path, .role-mark text")];
  return [chart.id, marks.filter((mark) => mark.getBoundingClientRect().width > 0).length];
}))"""


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_every_chart_is_drawn_without_requests(opened, small_report, width, scheme):
    page = opened(small_report, width, scheme=scheme)
    marks = page.evaluate(MARKS)
    assert marks.keys() == CHARTS
    assert min(marks.values()) > 0
    assert page.locator(POINTS).count() == 80
    assert is_within_the_screen(page)
    assert page.locator("#gallery img").evaluate_all("all => all.every((image) => image.naturalWidth > 0)")


def test_hovering_over_a_point_shows_its_image_with_name_label_and_prediction(opened, small_report):
    page = opened(small_report)
    # Mistakes are drawn last, above the others.
    page.locator(POINTS).last.hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert tooltip.locator("img").evaluate("image => image.complete && image.naturalWidth") == 32
    image = page.evaluate("images[images.length - 1]")
    keys, values = (tooltip.locator(f"td.{name}").all_inner_texts() for name in ("key", "value"))
    shown = {key: image[key] for key in ("name", "label", "prediction", "confidence", "audit")}
    assert dict(zip(keys, values, strict=True)) == shown
    assert image["label"] != image["prediction"]
    assert set(page.evaluate("classes")) == set(HOSTILE)


def test_a_tap_on_a_phone_shows_the_image_too(opened, small_report):
    page = opened(small_report, 390, has_touch=True, is_mobile=True)
    page.locator(POINTS).last.tap(force=True)
    # That of the photo.
    assert page.locator("#pinned img").evaluate("image => image.naturalWidth") == 192
    image = page.evaluate("images[images.length - 1]")
    caption = page.locator("#pinned figcaption").inner_text()
    assert f"{image['label']} → {image['prediction']}" in caption
    assert image["name"] in caption


def test_the_filters_of_the_points(opened, small_report):
    page = opened(small_report)
    for choice, count in (("mistakes", 20), ("correct", 60), ("all", 80)):
        page.locator(f"#tsne-chart input[name=only][value={choice}]").check()
        page.wait_for_function("([css, count]) => document.querySelectorAll(css).length === count", arg=[POINTS, count])
    page.locator("#tsne-chart select[name=of_class]").select_option(label="寿司 🍣")
    page.wait_for_function("css => document.querySelectorAll(css).length === 20", arg=POINTS)


def test_a_click_in_the_legend_shows_only_one_class(opened, small_report):
    page = opened(small_report)
    page.locator("#tsne-chart .role-legend-label text", has_text="NA").click()
    page.wait_for_function("css => document.querySelectorAll(css).length === 20", arg=POINTS)


def test_another_layer_moves_the_points(opened, small_report):
    page = opened(small_report)
    choice = page.locator("#tsne-chart select[name=layer]")
    assert choice.evaluate("select => select.selectedOptions[0].textContent") == LAYERS[-1]
    before = page.locator(POINTS).evaluate_all("all => all.map((point) => point.getAttribute('transform'))")
    choice.select_option(label=LAYERS[0])
    page.wait_for_function(
        "([css, old]) => document.querySelector(css).getAttribute('transform') !== old", arg=[POINTS, before[0]]
    )
    after = page.locator(POINTS).evaluate_all("all => all.map((point) => point.getAttribute('transform'))")
    assert len(after) == len(before)
    assert sum(old != new for old, new in zip(before, after, strict=True)) > 70


def test_the_gallery_shows_the_most_confident_mistakes_and_those_of_a_pair(opened, small_report):
    page = opened(small_report)
    captions = page.locator("#gallery figcaption").all_inner_texts()
    confidence = [float(re.search(r"([\d.]+) %", text)[1]) for text in captions]
    assert len(captions) == 20
    assert confidence == sorted(confidence, reverse=True)
    button = page.locator("button[data-true]").first
    label, prediction = (HOSTILE[int(button.get_attribute(name))] for name in ("data-true", "data-predicted"))
    count = int(button.locator("xpath=ancestor::tr/td[1]").inner_text())
    button.click()
    captions = page.locator("#gallery figcaption").all_inner_texts()
    assert len(captions) == count
    assert all(f"{label} → {prediction}" in text for text in captions)


def test_a_click_on_a_confused_pair_of_the_matrix_shows_its_images(opened, small_report):
    page = opened(small_report)
    wrong = page.locator("#confusion-chart .mark-rect.role-mark path").evaluate_all(
        "all => all.findIndex((cell) => cell.__data__.datum.kind === 'mistake')"
    )
    page.locator("#confusion-chart .mark-rect.role-mark path").nth(wrong).click(force=True, position={"x": 4, "y": 4})
    assert page.locator("#gallery-true").input_value() != ""
    assert 0 < page.locator("#gallery figure").count() < 20


def test_the_filters_can_be_used_with_the_keyboard(opened, small_report):
    page = opened(small_report)
    page.locator("#tsne-chart input[name=only][value=all]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("css => document.querySelectorAll(css).length === 20", arg=POINTS)
    names = page.locator("#tsne-chart select, #gallery-true, #gallery-predicted").evaluate_all(
        "all => all.map((control) => control.closest('label, .vega-bind').textContent.trim() !== '')"
    )
    assert len(names) == 4
    assert all(names)


@pytest.mark.parametrize("count", [2, 40, 60])
def test_few_and_many_classes(opened, make_report, count):
    names = [f"a class with number {number}" for number in range(count)]
    path = make_report(names, 240)
    for width in (1400, 390):
        page = opened(path, width)
        assert min(page.evaluate(MARKS).values()) > 0
        assert page.locator(POINTS).count() == 240
        assert is_within_the_screen(page)
        # A few pairs are only in the summary.
        assert page.locator("button[data-true]").count() == (1 if count == 2 else 3 + 15)
        page.locator("#parameters").scroll_into_view_if_needed()
        # Open tables and the list of sections need no scrolling either.
        cut = "all => all.filter((part) => part.scrollWidth > part.clientWidth + 1).map((part) => part.innerText)"
        assert page.locator("main > section > .two .wide, main > section > .wide, nav").evaluate_all(cut) == []
        legend = page.locator("#tsne-chart .role-legend-label text").all_text_contents()
        assert set(legend) - {"correct", "mistake"} == (set(names) if count <= 40 else set())


def test_the_answer_is_first_and_details_are_closed(opened, small_report):
    page = opened(small_report)
    assert page.title() == "digits: accuracy 75.00 %"
    sections = page.locator("main > section").evaluate_all(
        "all => all.map((part) => part.getAttribute('aria-labelledby'))"
    )
    order = [
        "summary",
        "confusion",
        "classes",
        "mistakes",
        "hits",
        "curves",
        "tsne",
        "reliability",
        "audit",
        "parameters",
    ]
    assert sections == [*order, "changes"]
    assert page.locator("nav a").evaluate_all("all => all.map((link) => link.hash.slice(1))") == sections
    assert page.locator("details[open]").count() == 0
    summary = page.locator("section[aria-labelledby=summary]")
    advice = summary.locator("li").all_inner_texts()
    assert "Overfitting: the accuracy is 99.0% on the training images and 70.0% on the valid split." in advice[1]
    assert (
        "pretrained network reaches 60.0 % (95 %: 55.0 to 65.0 %), the fine-tuned network 75.0 %"
        in summary.inner_text()
    )
    assert "fine-tuning brought +15.0 points." in summary.inner_text()
    worst = summary.locator("table").first.locator("tbody th").all_inner_texts()
    assert len(worst) == 3
    assert set(worst) <= set(HOSTILE)
    assert "CPU 3 epochs, float32" in page.locator("header").inner_text()


def test_a_click_enlarges_a_mistake_to_its_photo_beside_the_input_of_the_network(opened, small_report):
    for width in (1400, 390):
        page = opened(small_report, width)
        page.locator("#gallery .open").first.click()
        dialog = page.locator("#enlarged")
        dialog.wait_for()
        sizes = dialog.locator("img").evaluate_all(
            "all => all.map((image) => [image.naturalWidth, image.naturalHeight])"
        )
        # The photo, the input, and the input below the maps of the predicted and of the true class.
        assert sizes == [[192, 96], [32, 32], *[[32, 32], [4, 4]] * 2]
        assert page.locator("#gallery figcaption").first.inner_text() == dialog.locator("figcaption").inner_text()
        assert dialog.evaluate("part => part.scrollWidth <= part.clientWidth")
        dialog.get_by_role("button", name="Close").click()
        assert not dialog.is_visible()


def test_reviewed_labels_are_saved_as_corrections_without_a_network(opened, make_report, workspace):
    report = make_report(corrections="id,label\ntest/00001.png,NA\n")
    page = opened(report, accept_downloads=True)
    save = page.get_by_role("button", name="Save corrections.csv")
    assert save.is_disabled()
    paths = page.evaluate("mistakes.slice(0, 4).map((image) => image.name)")
    mistake = page.evaluate("mistakes[1]")
    for number, choice in enumerate(("right", f"={mistake['prediction']}", "drop", "drop")):
        page.locator("#gallery select").nth(number).select_option(choice)
    # Undone again.
    page.locator("#gallery select").nth(3).select_option("")
    # The choices stay while others are shown.
    page.locator("#gallery-true").select_option(label="NA")
    page.locator("#gallery-true").select_option("")
    assert page.locator("#gallery select").nth(2).input_value() == "drop"
    assert page.locator("#reviewed").inner_text() == "3 reviewed"
    with page.expect_download() as download:
        save.click()
    assert download.value.suggested_filename == "corrections.csv"
    download.value.save_as(workspace / "corrections.csv")
    expected = {"test/00001.png": "NA", paths[1]: mistake["prediction"], paths[2]: "drop"}
    assert read_corrections(str(workspace / "corrections.csv")) == expected


def test_images_have_their_paths_in_the_source(opened, small_report):
    names = opened(small_report).evaluate("images.map((image) => image.name)")
    assert "test/00000.png" in names
    assert all(name.startswith("test/") for name in names)


def test_training_images_are_shown_with_the_classes_of_their_target(opened, small_report):
    batch = opened(small_report).locator("section[aria-labelledby=curves] .gallery")
    assert batch.locator("figcaption").all_inner_texts() == [f"70% {HOSTILE[0]} + 30% {HOSTILE[1]}", HOSTILE[0]]
    assert batch.locator("img").evaluate_all("all => all.map((image) => image.naturalWidth)") == [32, 32]


def test_names_of_what_every_javascript_object_has(opened, make_report):
    names = ["constructor", "toString", "hasOwnProperty", "__proto__", "valueOf", "length", "cat"]
    page = opened(make_report(names, 140))
    assert min(page.evaluate(MARKS).values()) > 0
    assert page.locator(POINTS).count() == 140
    for chart in ("confusion-chart", "classes-chart"):
        labels = page.locator(f"#{chart} .role-axis-label text").all_text_contents()
        assert set(names) <= set(labels)
    for chart in ("roc", "precision-recall", "tsne-chart"):
        assert set(names) <= set(page.locator(f"#{chart} .role-legend-label text").all_text_contents())
    assert page.locator("#classes-chart .mark-rect.role-mark path").count() == len(names)
    assert page.locator("#roc .mark-line.role-mark path").count() == len(names)


def test_long_names_do_not_widen_the_page(opened, make_report):
    page = opened(make_report(["x" * 200, "word " * 40]), 390)
    assert is_within_the_screen(page)


def test_limits_are_stated(opened, make_report, monkeypatch):
    monkeypatch.setattr("pipeline.report.images.THUMBNAIL_BYTES", 0)
    monkeypatch.setattr("pipeline.report.images.PHOTO_BYTES", 0)
    monkeypatch.setattr("pipeline.report.images.MISTAKES", 5)
    monkeypatch.setattr("pipeline.report.images.POINTS", 30)
    page = opened(make_report())
    text = page.locator("main").inner_text()
    assert "the first 5 of 20 are on this page" in text
    assert "30 of 80 images, evenly spaced, are drawn" in text
    assert re.search(r"\b0 of the \d+ images on this page", text)
    assert page.locator("#gallery .none").count() == 5
    assert page.locator(POINTS).count() == 30


def test_a_network_without_mistakes(opened, make_report):
    page = opened(make_report(("cat", "dog"), 40, wrong=1000))
    text = page.locator("main").inner_text()
    assert "No class was confused with another." in text
    assert "every image of the test split is classified correctly" in text
    page.locator("#tsne-chart input[name=only][value=mistakes]").check()
    page.wait_for_function("css => document.querySelectorAll(css).length === 0", arg=POINTS)


def test_the_page_is_the_same_for_the_same_results(make_report, small_report):
    assert make_report().read_bytes() == small_report.read_bytes()


def test_names_are_not_interpreted_as_markup(opened, small_report):
    page = opened(small_report)
    assert json.loads(page.locator("#class-names").text_content()) == list(HOSTILE)
    assert page.locator("main script, img[src=x]").count() == 0
    page.locator("#classes-chart ~ details summary").click()
    names = page.locator("#classes-chart ~ details tbody th").all_inner_texts()
    assert names == list(HOSTILE)


@pytest.mark.slow
def test_a_report_of_food_11_stays_below_10_mb_and_opens_quickly(opened, make_report):
    path = make_report([f"class {number}" for number in range(11)], 3430, size=128, steps=15_000)
    assert path.stat().st_size < 10e6
    page = opened(path)
    assert page.locator(POINTS).count() == 3430
    assert page.evaluate("images.every((image) => image.image.startsWith('data:image/webp'))")


MAP = """async (map) => {
  await map.decode();
  const canvas = new OffscreenCanvas(4, 4), context = canvas.getContext("2d");
  context.drawImage(map, 0, 0);
  const opacity = context.getImageData(0, 0, 4, 4).data.filter((_, place) => place % 4 === 3);
  return [opacity[0], opacity[15]];
}"""


def test_the_reader_can_lay_the_map_of_either_class_over_mistakes_hits_and_the_point_under_the_pointer(
    opened, small_report
):
    page = opened(small_report)
    assert page.locator(".map").count() == 0
    page.locator(".map-choice").first.select_option(label="of the predicted class")
    assert set(page.locator(".map-choice").evaluate_all("all => all.map((choice) => choice.value)")) == {"map"}
    # What is not transparent: the first and the last cell.
    assert page.locator("#gallery .map").count() == 20
    assert page.locator("#hits-gallery .map").count() == 12
    assert page.locator("#gallery .map").first.evaluate(MAP) == [153, 0]
    page.locator(POINTS).last.hover()
    assert page.locator("#vg-tooltip-element .picture .map").evaluate(MAP) == [153, 0]
    page.locator(".map-choice").last.select_option(label="of the true class")
    assert page.locator("#gallery .map").first.evaluate(MAP) == [0, 153]
    # Of a hit both classes are the same.
    assert page.locator("#hits-gallery .map").first.evaluate(MAP) == [153, 0]
    page.locator(".map-choice").first.select_option(label="none")
    assert page.locator("main .map").count() == 0
    page.locator("#gallery .open").first.click()
    assert page.locator("#enlarged .map").evaluate_all(f"all => Promise.all(all.map({MAP}))") == [[153, 0], [0, 153]]


def test_the_surest_hits_of_each_class_are_shown(opened, small_report):
    page = opened(small_report)
    captions = page.locator("#hits-gallery figcaption").all_inner_texts()
    assert len(captions) == 12  # no image of NA is classified correctly
    assert not any("→" in text for text in captions)
    page.locator("#hits-class").select_option(label="寿司 🍣")
    captions = page.locator("#hits-gallery figcaption").all_inner_texts()
    assert len(captions) == 4
    assert all(text.startswith("寿司 🍣") for text in captions)
    shown = page.evaluate(
        "images.filter((image) => image.correct && image.label === '寿司 🍣').map((i) => i.confidence)"
    )
    best = sorted((float(text.split()[0]) for text in shown), reverse=True)[:4]
    assert [float(re.search(r"([\d.]+) %", text)[1]) for text in captions] == best
