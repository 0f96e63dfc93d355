"""The page of pictures."""

import re
from html.parser import HTMLParser

import numpy as np

from pipeline.augment.audit_page import SHOWN, SHOWN_OF_GROUP, audit_page
from tests.augment.test_audit import SIZE, audited, noise


class Page(HTMLParser):
    """Collects the tags, the pictures and the text."""

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


def test_a_page_loads_nothing_from_elsewhere():
    same = noise()
    page = Page(audited(("train", 0, same), ("valid", 0, same)))
    assert len(page.pictures) == 2
    assert all(picture["src"].startswith("data:image/jpeg;base64,") for picture in page.pictures)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?:", page.source)


def test_findings_are_shown_with_label_split_and_name():
    same = noise()
    page = Page(audited(("train", 0, same), ("test", None, same), ("train", 1, noise(0, 20))))
    for words in ("Leaks: 1", "cat · train", "unlabelled · test", "Dark: 1", "train/2.png", "the same file"):
        assert words in page.text
    assert "Contradictory labels: " not in page.text


def test_names_and_reasons_cannot_put_tags_into_the_page():
    found = audited(("train", 0, noise()), ("train", 1, noise()), bad={1: "<script>alert(1)</script>"})
    object.__setattr__(found.images[1], "entry", "train/<img src=x onerror=alert(1)>.png")
    page = Page(found)
    assert "script" not in page.tags
    assert page.pictures == []
    assert "<script>alert(1)</script>" in page.text


def test_many_findings_are_counted_and_the_first_are_shown():
    dark = [("train", row % 2, noise(0, 20)) for row in range(SHOWN + 5)]
    same = noise()
    page = Page(audited(*dark, *[("train", 0, same)] * (SHOWN_OF_GROUP + 3)))
    assert len(page.pictures) == SHOWN + SHOWN_OF_GROUP
    assert f"Dark: {SHOWN + 5}" in page.text
    assert f"The first {SHOWN} are shown." in page.text
    assert "and 3 more" in page.text


def test_a_group_shows_an_image_of_each_split_first():
    same = noise()
    page = Page(audited(*[("train", 0, same)] * 20, ("test", None, same)))
    assert "test/20.png" in {picture["alt"] for picture in page.pictures}


def test_a_flawless_dataset_has_no_pictures():
    page = Page(audited(("train", 0, noise()), ("train", 1, noise())))
    assert page.pictures == []
    assert "2 images of 2 classes." in page.text
