"""The audit as a page of pictures, in one file that opens without a network."""

import base64
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import cv2
import jinja2
import numpy as np
from numpy.typing import NDArray

from pipeline.augment.audit import Audit, summary, unfit_detail
from pipeline.augment.duplicates import Group

# So many groups or single images of a kind, and images of a group, are shown; the table has them all.
SHOWN, SHOWN_OF_GROUP = 24, 6
THUMBNAIL = 112
_KINDS = {
    "leaks": ("Leaks", "The same picture in two splits: what the network is judged by, it has learned by heart."),
    "contradictions": ("Contradictory labels", "The same picture under different labels: one of them is wrong."),
    "repeats": ("Duplicates", "The same picture more than once within a split: it counts for more than the others."),
    "dark": ("Dark", "95 of 100 pixels lie in the lowest quarter of the range."),
    "bright": ("Bright", "95 of 100 pixels lie in the highest quarter of the range."),
    "blurred": ("Blurred or blank", "No fine detail at the size that the network sees."),
    "tiny": ("Tiny", "The short side is less than half of image_size, so that the image is enlarged."),
}


def audit_page(found: Audit, plain: Callable[[int], NDArray[np.uint8]]) -> str:
    """Draw the page as HTML; ``plain`` gives the plain copy of a row, ``uint8``, ``(size, size, 3)``."""
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(
        (files("pipeline.augment") / "audit_page.html.jinja").read_text("utf-8")
    )
    numbers = summary(found)
    return template.render(
        numbers=numbers,
        unlabelled={
            split: count - sum(row[split] for row in numbers["classes"]) for split, count in numbers["images"].items()
        },
        bad=[{"source": found.images[row].entry, "reason": reason} for row, reason in found.bad.items()],
        kinds=[_kind(found, kind, plain) for kind in _KINDS],
    )


def _kind(found: Audit, kind: str, plain: Callable[[int], NDArray[np.uint8]]) -> dict[str, Any]:
    title, meaning = _KINDS[kind]
    if kind in found.unfit:
        rows = found.unfit[kind]
        groups = [
            {"cards": [_card(found, row, unfit_detail(found, kind, row), plain)], "rest": 0} for row in rows[:SHOWN]
        ]
        return {"id": kind, "title": title, "meaning": meaning, "count": len(rows), "groups": groups}
    of_kind: list[Group] = getattr(found, kind)
    groups = []
    for group in of_kind[:SHOWN]:
        same = "the same file" if group.exact else "the same picture"
        cards = [
            _card(found, row, f"{same}, dropped" if row in found.dropped else same, plain)
            for row in _one_of_each_split(found, group)
        ]
        groups.append({"cards": cards, "rest": len(group.rows) - len(cards)})
    return {"id": kind, "title": title, "meaning": meaning, "count": len(of_kind), "groups": groups}


def _one_of_each_split(found: Audit, group: Group) -> list[int]:
    """The rows of a group to show: one of each split and label first."""
    seen: set[tuple[str, int | None]] = set()
    first: list[int] = []
    others: list[int] = []
    for row in group.rows:
        what = (found.images[row].split, found.images[row].label)
        (others if what in seen else first).append(row)
        seen.add(what)
    return [*first, *others][:SHOWN_OF_GROUP]


def _card(found: Audit, row: int, detail: str, plain: Callable[[int], NDArray[np.uint8]]) -> dict[str, Any]:
    image = found.images[row]
    label = "unlabelled" if image.label is None else found.classes[image.label]
    return {
        "image": _thumbnail(plain(row)),
        "source": image.entry,
        "split": image.split,
        "label": label,
        "detail": detail,
    }


def _thumbnail(pixels: NDArray[np.uint8]) -> str:
    """A JPEG as a data URI."""
    shrinks = len(pixels) > THUMBNAIL
    method = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    small = cv2.resize(np.ascontiguousarray(pixels[..., ::-1]), (THUMBNAIL, THUMBNAIL), interpolation=method)
    _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
