"""The audit as one HTML page with thumbnails, which opens without a network connection."""

import base64
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import cv2
import jinja2
import numpy as np
from numpy.typing import NDArray

from pipeline.augment.audit import Audit, summarize
from pipeline.images.duplicates import CANDIDATES, Group

# The page shows this many groups or single images per finding, and images per group; audit.csv lists all of them.
MAX_GROUPS, MAX_IMAGES_PER_GROUP = 24, 6
THUMBNAIL = 112
_KINDS = {
    "leak": (
        "Leaks",
        "The same file or the same pixels in two splits: the network is evaluated on what it was trained on.",
    ),
    "contradictory labels": (
        "Contradictory labels",
        "The same file or the same pixels under different labels: one of them is wrong.",
    ),
    "duplicate": ("Duplicates", "The same file or the same pixels more than once within a split, with one label."),
    "near-duplicate in two splits": (
        "Near-duplicates in two splits",
        "A changed copy, or another photo of the same scene: if so, the accuracy is too high. They are never dropped.",
    ),
    "near-duplicate with two labels": (
        "Near-duplicates with two labels",
        "A changed copy under a wrong label, or two objects that look alike: compare them.",
    ),
    "near-duplicate": ("Near-duplicates", "Similar images within a split, with one label."),
    "dark": ("Dark", "95 % of the pixels are in the lowest quarter of the range."),
    "bright": ("Bright", "95 % of the pixels are in the highest quarter of the range."),
    "blurred": ("Blurred or blank", "No fine detail at the size that the network sees."),
    "tiny": ("Tiny", "The short side is less than half of image_size, so the image is enlarged."),
}


def audit_page(found: Audit, plain: Callable[[int], NDArray[np.uint8]]) -> str:
    """Render the page; ``plain`` returns the plain copy of a row, ``uint8``, ``(size, size, 3)``."""
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(
        (files("pipeline.augment") / "audit_page.html.jinja").read_text("utf-8")
    )
    metrics, details = summarize(found)
    return template.render(
        numbers=metrics | details,
        unlabelled={
            split: count - sum(row[split] for row in details["classes"]) for split, count in details["splits"].items()
        },
        bad=[{"source": found.images[row].path, "reason": reason} for row, reason in found.bad.items()],
        corrected=[(path, old, new or "dropped") for path, (old, new) in found.corrected.items()],
        candidates=CANDIDATES,
        kinds=[_section(found, kind, plain) for kind in _KINDS],
    )


def _section(found: Audit, kind: str, plain: Callable[[int], NDArray[np.uint8]]) -> dict[str, Any]:
    title, meaning = _KINDS[kind]
    unfit = kind in found.unfit
    groups = [Group((row,)) for row in found.unfit[kind]] if unfit else found.groups[kind]
    # The surest pairs of near-duplicates come first.
    groups = sorted(groups, key=lambda group: -(group.correlation or 1))
    shown = []
    for group in groups[:MAX_GROUPS]:
        cards = []
        for row in _one_of_each_split(found, group):
            detail = found.describe_unfit(kind, row) if unfit else found.describe_duplicate(group, row)
            cards.append(_card(found, row, detail, plain))
        shown.append({"cards": cards, "rest": len(group.rows) - len(cards)})
    return {"id": kind.replace(" ", "-"), "title": title, "meaning": meaning, "count": len(groups), "groups": shown}


def _one_of_each_split(found: Audit, group: Group) -> list[int]:
    """The rows of a group to show: the first one of each split and label comes before the others."""
    first: dict[tuple[str, int | None], int] = {}
    for row in group.rows:
        first.setdefault((found.images[row].split, found.images[row].label), row)
    others = sorted(set(group.rows) - set(first.values()))
    return [*first.values(), *others][:MAX_IMAGES_PER_GROUP]


def _card(found: Audit, row: int, detail: str, plain: Callable[[int], NDArray[np.uint8]]) -> dict[str, Any]:
    image = found.images[row]
    return {
        "image": _thumbnail(plain(row)),
        "source": image.path,
        "split": image.split,
        "label": found.class_name(row) or "unlabelled",
        "detail": detail,
    }


def _thumbnail(pixels: NDArray[np.uint8]) -> str:
    """A JPEG as a data URI."""
    method = cv2.INTER_AREA if len(pixels) > THUMBNAIL else cv2.INTER_NEAREST
    small = cv2.resize(np.ascontiguousarray(pixels[..., ::-1]), (THUMBNAIL, THUMBNAIL), interpolation=method)
    _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
