"""Tests of the HTML page."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from pipeline.augment.audit import findings_table
from pipeline.augment.audit_page import MAX_GROUPS, MAX_IMAGES_PER_GROUP, audit_page
from tests.support.audits import SIZE, audited, changed, noise, smooth


class Page(HTMLParser):
    """The tags, the pictures and the text of a page."""

    def __init__(self, found, plain=lambda row: np.zeros((SIZE, SIZE, 3), np.uint8)):
        super().__init__()
        self.source = audit_page(found, plain)
        self.tags, self.pictures, self.text = [], [], ""
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs))

    def handle_data(self, data):
        self.text += data


def test_the_page_is_self_contained():
    same = noise()
    page = Page(audited(("train", 0, same), ("valid", 0, same)))
    assert len(page.pictures) == 2
    assert all(picture["src"].startswith("data:image/jpeg;base64,") for picture in page.pictures)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?:", page.source)


def test_findings_have_label_split_and_name():
    same = noise()
    page = Page(audited(("train", 0, same), ("test", None, same), ("train", 1, noise(0, 20))))
    for words in ("Leaks: 1", "cat · train", "unlabelled · test", "Dark: 1", "train/2.png", "the same file"):
        assert words in page.text
    assert "Contradictory labels: " not in page.text


def test_names_and_reasons_are_escaped():
    found = audited(("train", 0, noise()), ("train", 1, noise()), bad={1: "<script>alert(1)</script>"})
    object.__setattr__(found.images[1], "entry", "train/<img src=x onerror=alert(1)>.png")
    page = Page(found)
    assert "script" not in page.tags
    assert page.pictures == []
    assert "<script>alert(1)</script>" in page.text


def test_all_findings_are_counted_and_the_first_ones_are_shown():
    dark = [("train", row % 2, noise(0, 20)) for row in range(MAX_GROUPS + 5)]
    same = noise()
    page = Page(audited(*dark, *[("train", 0, same)] * (MAX_IMAGES_PER_GROUP + 3)))
    assert len(page.pictures) == MAX_GROUPS + MAX_IMAGES_PER_GROUP
    assert f"Dark: {MAX_GROUPS + 5}" in page.text
    assert f"The first {MAX_GROUPS} are shown." in page.text
    assert "and 3 more" in page.text


def test_a_group_shows_one_image_of_each_split_first():
    same = noise()
    page = Page(audited(*[("train", 0, same)] * 20, ("test", None, same)))
    assert "test/20.png" in {picture["alt"] for picture in page.pictures}


def test_near_duplicates_are_shown_as_pairs_with_their_correlation():
    picture = smooth(1)
    page = Page(audited(("train", 0, picture), ("train", 1, changed(picture)), ("valid", 0, noise())))
    assert "Near-duplicates with two labels: 1" in page.text
    assert "Contradictory labels: " not in page.text
    assert "near-duplicate, correlation 1.000" in page.text
    assert [image["alt"] for image in page.pictures] == ["train/0.png", "train/1.png"]


def test_files_that_were_left_out_are_counted():
    page = Page(audited(("train", 0, noise()), ("train", 1, noise()), left_out={"a": "hidden", "b": "hidden"}))
    assert "2 other files of the source were left out" in page.text
    assert "hidden (2)" in page.text


def test_corrections_are_counted_and_the_first_ones_are_listed_and_all_of_them_in_the_table():
    found = audited(("train", 0, noise()), ("train", 1, noise()))
    dropped = {f"cat/<{number}>.png": ("cat", None) for number in range(1200)}
    found = replace(found, corrected={"train/0.png": ("dog", "cat"), **dropped})
    page = Page(found)
    for words in ("Corrections: 1,201", "1 labels corrected, 1,200 images dropped", "cat/<198>.png", "and 1,001 more"):
        assert words in page.text
    assert "cat/<199>.png" not in page.text
    table = findings_table(found)
    assert table.loc[table["detail"] == "dropped by data.corrections", "source"].tolist() == list(dropped)


def test_a_dataset_without_findings_has_no_pictures():
    page = Page(audited(("train", 0, noise()), ("train", 1, noise())))
    assert page.pictures == []
    assert "2 images of 2 classes." in page.text
