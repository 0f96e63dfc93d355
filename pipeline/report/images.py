"""The images of the page: those of the t-SNE pictures and the mistakes, within a budget of bytes."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from cv2.typing import MatLike
from numpy.typing import NDArray

from pipeline.common.dataset import PackedSplit, evenly_spaced
from pipeline.common.raw_archive import RawImage, RawReader
from pipeline.common.sharded_array import ShardedArray
from pipeline.images.decoding import decode
from pipeline.report.inputs import Inputs

# More points make a browser slow; more mistakes are too many to look through.
POINTS, MISTAKES = 8_000, 1_000
# Surest hits: of each class, and about as many of all classes.
HITS, ALL_HITS = 4, 400
# Bytes for all thumbnails, and for the photos of mistakes: the page stays below 10 MB.
THUMBNAIL_BYTES, PHOTO_BYTES = 4_000_000, 2_500_000
# Longer side in pixels and quality of a photo, and of a training image.
PHOTO, BATCH_TILE = (640, 75), (160, 80)
# Side in pixels and quality of WebP, the best first.
FORMATS = ((96, 80), (80, 75), (64, 70), (56, 60), (48, 50))
SAMPLE = 128


class PageImages(NamedTuple):
    """The columns of a table of the images on the page, and counts for its texts."""

    columns: dict[str, list[Any]]
    counts: dict[str, int]


def images_of_page(inputs: Inputs, split: PackedSplit, raw: RawReader, raw_images: dict[str, RawImage]) -> PageImages:
    """Choose and encode the images of the page.

    Args:
        inputs: the results.
        split: the one that was evaluated.
        raw, raw_images: the photos of that split, by their path in the source.
    """
    row_of = {name: row for row, name in enumerate(split.ids)}
    evaluated = inputs.images
    points = _positions(inputs.points, inputs.layers)
    points = points[points.index.isin(evaluated["id"])]
    drawn = points.iloc[evenly_spaced(len(points), POINTS)]
    wrong = evaluated[evaluated["correct"] == 0].sort_values("confidence", ascending=False, kind="stable")
    listed = wrong.head(MISTAKES)
    # Mistakes are drawn last, above the others; the gallery shows the last rows, the most confident first.
    correct = evaluated[evaluated["correct"] == 1].sort_values("confidence", ascending=False, kind="stable")
    each = min(HITS, max(ALL_HITS // len(inputs.classes), 1))
    sure = set(correct.groupby("class").head(each)["id"])
    right = evaluated[evaluated["id"].isin({*drawn.index, *sure}) & (evaluated["correct"] == 1)]
    other = wrong[wrong["id"].isin(drawn.index) & ~wrong["id"].isin(listed["id"])]
    images = pd.concat([right, other, listed])
    rows = [row_of[name] for name in images["id"]]
    thumbnails = make_thumbnails(split.images, rows, {row_of[name] for name in listed["id"]}, THUMBNAIL_BYTES)
    originals = (raw_images[name] for name in listed["source"])
    photos = encode_photos((raw.read(image) for image in originals), thumbnails.side, PHOTO_BYTES)
    index_of = {name: index for index, name in enumerate(inputs.classes["class"])}
    columns: dict[str, list[Any]] = {
        "image": [thumbnails.uris.get(row, "") for row in rows],
        "photo": [*[""] * (len(images) - len(listed)), *photos],
        "name": images["source"].tolist(),
        "label": [index_of[name] for name in images["class"]],
        "prediction": [index_of[name] for name in images["predicted_class"]],
        "confidence": images["confidence"].round(4).tolist(),
        "of_label": np.exp(-images["loss"]).round(4).tolist(),
        "audit": images["finding"].tolist(),
        "sure": [int(name in sure) for name in images["id"]],
        "map": [inputs.saliency["predicted"].get(name, "") for name in images["id"]],
        "true_map": [inputs.saliency["true"].get(name, "") for name in images["id"]],
    }
    for name in drawn.columns:
        columns[name] = [None if np.isnan(v) else int(v) for v in drawn[name].reindex(images["id"])]
    counts = {
        "images": len(images),
        "thumbnails": len(thumbnails.uris),
        "points": len(points),
        "drawn": len(drawn),
        "mistakes": len(wrong),
        "listed": len(listed),
        "photos": sum(map(bool, photos)),
    }
    return PageImages(columns, counts)


def _positions(points: pd.DataFrame, layers: list[str]) -> pd.DataFrame:
    """x0, y0, x1 … by layer for each id, from 0 to 10,000, with the same scale for x and y."""
    columns: dict[str, pd.Series[float]] = {}
    if not layers:
        return pd.DataFrame(index=pd.Index([], dtype=str))
    for number, layer in enumerate(layers):
        places = points[points["layer"] == layer].set_index("id")[["x", "y"]]
        places = places[~places.index.duplicated()]
        low, high = places.min(), places.max()
        span = max((high - low).max(), 1e-12)
        scaled = ((places - (low + high) / 2) / span + 0.5).mul(10_000).round()
        columns |= {f"{axis}{number}": scaled[axis] for axis in ("x", "y")}
    return pd.DataFrame(columns)


def batch_tiles(picture: bytes, side: int, targets: Sequence[Sequence[tuple[str, float]]]) -> list[tuple[str, str]]:
    """The images of ``results/plots/train_batch.png`` as data URIs with captions.

    Args:
        picture: the file.
        side: of its images, which are squares, row by row without margins.
        targets: the classes of each image with their shares.
    """
    pixels, tiles = decode(picture), []
    columns = pixels.shape[1] // side
    for place, classes in enumerate(targets):
        top, left = (side * number for number in divmod(place, columns))
        caption = " + ".join(name if len(classes) == 1 else f"{share:.0%} {name}" for name, share in classes)
        tiles.append((encoded(pixels[top : top + side, left : left + side], *BATCH_TILE), caption))
    return tiles


@dataclass(frozen=True)
class Thumbnails:
    """Data URIs by row, and the side of the thumbnails in pixels."""

    side: int
    uris: dict[int, str]


def make_thumbnails(
    images: NDArray[np.uint8] | ShardedArray, rows: Sequence[int], first: set[int], budget: int
) -> Thumbnails:
    """Encode the plain copies of ``rows``, at the largest size at which all of them fit into ``budget``.

    If they do not fit at the smallest size, those in ``first`` come first, then an evenly spaced sample of the others.

    Args:
        images: ``uint8``, ``(images, copies, height, width, 3)``.
        rows: rows of ``images``.
        first: the rows with the highest priority.
        budget: characters.
    """
    ordered = [*(row for row in rows if row in first), *_evenly_ordered([row for row in rows if row not in first])]
    sample = ordered[:: max(len(ordered) // SAMPLE, 1)]
    for side, quality in FORMATS:
        mean = sum(len(encoded(images[row, 0], side, quality)) for row in sample) / max(len(sample), 1)
        if mean * len(ordered) <= budget * 0.95:
            break
    uris, used = {}, 0
    for row in ordered:
        uri = encoded(images[row, 0], side, quality)
        used += len(uri)
        if used > budget:
            break
        uris[row] = uri
    return Thumbnails(min(side, images.shape[2]), uris)


def encode_photos(contents: Iterable[bytes], least: int, budget: int, form: tuple[int, int] = PHOTO) -> list[str]:
    """Photos as data URIs, the first ones until ``budget`` characters are used; the others are empty.

    So are those that are not larger than ``least`` pixels: a thumbnail shows as much. ``form`` are the longer side in
    pixels and the quality.
    """
    side, quality = form
    uris: list[str] = []
    for content in contents:
        pixels = decode(content, side) if budget > 0 else np.zeros((0, 0, 3), np.uint8)
        uri = encoded(pixels, side, quality) if max(pixels.shape[:2]) > least else ""
        budget -= len(uri)
        uris.append(uri if budget >= 0 else "")
    return uris


def _evenly_ordered(rows: list[int]) -> list[int]:
    """An order in which the first n rows, for any n, are an evenly spaced sample of all (bit-reversed)."""
    bits = max(len(rows) - 1, 1).bit_length()
    reversed_bits = (int(f"{place:0{bits}b}"[::-1], 2) for place in range(1 << bits))
    return [rows[place] for place in reversed_bits if place < len(rows)]


def encoded(pixels: NDArray[np.uint8], side: int, quality: int) -> str:
    """A WebP image as a data URI, its longer side at most ``side`` pixels; smaller images are not enlarged."""
    small: MatLike = np.ascontiguousarray(pixels[..., ::-1])
    if max(small.shape[:2]) > side:
        height, width = (max(1, round(length * side / max(small.shape[:2]))) for length in small.shape[:2])
        small = cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()
