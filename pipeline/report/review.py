"""The page of the images whose labels are most likely to be wrong, with the gallery of the report."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.common.raw_archive import RawImage, RawReader
from pipeline.report.images import encode_photos
from pipeline.report.page import render

# Images on the page, their longer side in pixels and their quality, and bytes for all of them.
SUSPECTS, PHOTO, PHOTO_BYTES = 500, (320, 75), 8_000_000


def review_page(
    suspects: pd.DataFrame,
    labelled: int,
    classes: Sequence[str],
    corrections: Mapping[str, str],
    raw: RawReader,
    raw_images: Mapping[str, RawImage],
) -> str:
    """Return the page as HTML.

    Args:
        suspects: the columns source, label, predicted, confidence and loss of the images that are predicted as another
            class than that of their label; the most suspect one first.
        labelled: the number of images that were predicted.
        classes: their names.
        corrections: those that the labels contain already, of ``read_corrections``.
        raw, raw_images: the photos, by their path in the source.
    """
    contents = (raw.read(raw_images[path]) for path in suspects["source"].head(SUSPECTS))
    photos = [uri for uri in encode_photos(contents, 0, PHOTO_BYTES, PHOTO) if uri]
    shown = suspects.head(len(photos))
    columns = {
        "photo": photos,
        "name": shown["source"].tolist(),
        "label": shown["label"].tolist(),
        "prediction": shown["predicted"].tolist(),
        "confidence": shown["confidence"].round(4).tolist(),
        "of_label": np.exp(-shown["loss"]).round(4).tolist(),
    }
    return render(
        "review.html.jinja",
        counts={"labelled": labelled, "mistakes": len(suspects), "listed": len(photos)},
        class_names=list(classes),
        corrections=list(corrections.items()),
        images=columns,
        saliency={},
    )
