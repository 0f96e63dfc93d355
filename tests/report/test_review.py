"""The page to review labels, in a browser."""

import pandas as pd
import pytest

from pipeline.common.label_files import read_corrections
from pipeline.common.raw_archive import RawReader, read_raw_archive
from pipeline.report import review
from tests.support.report_results import HOSTILE, write_run


@pytest.fixture
def page_path(workspace):
    """Write the page of 20 mistakes among 80 images, the last one first; photos of 192×96 pixels."""

    def write(corrections):
        write_run(workspace, HOSTILE, 80)
        table = pd.read_csv("results/evaluation/predictions.csv", na_filter=False)
        wrong = table[table["correct"] == 0].iloc[::-1]
        classes, images, _ = read_raw_archive(workspace / "data/raw.zip")
        raw, photos = RawReader(workspace / "data/raw.zip"), {image.path: image for image in images}
        path = workspace / "review.html"
        path.write_text(review.review_page(wrong, len(table), classes, corrections, raw, photos), "utf-8")
        return path, wrong

    return write


def test_labels_are_reviewed_and_saved_without_a_network(opened, page_path, workspace):
    path, wrong = page_path({"test/00001.png": "NA"})
    page = opened(path, 390, accept_downloads=True)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("images.map((image) => image.name)") == wrong["source"].tolist()
    text = page.locator("main").inner_text()
    assert "Each of the 80 labelled images" in text
    assert "20 were predicted as another class" in text
    first = page.locator("#gallery figure").first
    label, prediction, confidence = wrong.iloc[0][["class", "predicted_class", "confidence"]]
    assert f"{label} → {prediction}\n{confidence:.1%}".replace("%", " %") in first.inner_text()
    assert first.locator("img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [192, 96]
    first.locator("select").select_option(f"={prediction}")
    page.locator("#gallery select").nth(1).select_option("drop")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save corrections.csv").click()
    download.value.save_as(workspace / "corrections.csv")
    first, second = wrong["source"].iloc[:2]
    assert read_corrections("corrections.csv") == {"test/00001.png": "NA", first: prediction, second: "drop"}


def test_the_images_that_fit_are_listed_and_all_are_counted(page_path, monkeypatch):
    monkeypatch.setattr(review, "SUSPECTS", 7)
    assert (
        "20 were predicted as another class than that of their label; the first 7 are" in page_path({})[0].read_text()
    )
