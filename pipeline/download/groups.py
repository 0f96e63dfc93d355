"""Which images must stay in one split: groups, as ``data.groups`` describes them, and images that are the same."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from pipeline.common.raw_archive import SPLITS
from pipeline.common.text import listed
from pipeline.download.layout import SourceImage
from pipeline.errors import PipelineError
from pipeline.params.schema import NEAR_DUPLICATES, DataParams
from pipeline.progress import progress, say


def grouped_by_path(images: Sequence[SourceImage], pattern: str) -> list[SourceImage]:
    """Return the images with the group that the pattern finds in their paths: its first group, or the whole match.

    Raises:
        PipelineError: it finds nothing in the path of a labelled image.
    """
    expression = re.compile(pattern)
    found = {image.path: expression.search(image.path) for image in images}
    names = {path: match[min(expression.groups, 1)] for path, match in found.items() if match}
    without = sorted(image.path for image in images if image.label is not None and not names.get(image.path))
    if without:
        raise PipelineError(
            f"params.yaml: data.groups: {pattern!r} finds no group in {len(without):,} of {len(images):,} paths "
            f"({without[0]} ...); correct it, or set it to null"
        )
    return [replace(image, group=names.get(image.path)) for image in images]


def separated_groups(images: Sequence[SourceImage], params: DataParams) -> dict[str, str]:
    """Treat groups that the source itself has in several splits as ``data.on_leak`` says.

    With ``drop``, the images of such a group stay in test, or else in valid, and are dropped from the other splits.

    Returns:
        The reason for each image that is dropped, by its path.

    Raises:
        PipelineError: there is such a group and ``on_leak`` is ``error``.
    """
    grouped = [(image, image.group) for image in images if image.group is not None and image.label is not None]
    splits = {image.path: image.split or "train" for image, _ in grouped}
    if params.folds:  # they are cut together
        splits = {path: "train" if split == "valid" else split for path, split in splits.items()}
    found = defaultdict(set)
    for image, group in grouped:
        found[group].add(splits[image.path])
    last = {group: max(names, key=SPLITS.index) for group, names in sorted(found.items()) if len(names) > 1}
    if not last:
        return {}
    leaked = {
        image.path: group for image, group in grouped if splits[image.path] != last.get(group, splits[image.path])
    }
    line = f"{len(last):,} groups are in more than one split of the source: {listed(last)}"
    if params.on_leak == "error":
        raise PipelineError(f"data.on_leak: {line}; move their images into one split, or set data.on_leak to drop")
    if params.on_leak == "warn":
        say(f"download: {line}, which makes the metrics too high; data.on_leak: drop leaves out {len(leaked):,} images")
        return {}
    say(f"download: {line}; left out {len(leaked):,} of their images (data.on_leak: drop)")
    return {path: f"its group is also in {last[group]}" for path, group in leaked.items()}


def content_keys(images: Sequence[SourceImage], read: Callable[[str], bytes], groups: str | None) -> list[str]:
    """A hash of the content of each image; near-duplicates have the same key if ``groups`` asks for them.

    Args:
        images: of the source.
        read: returns the content of the image at a path.
        groups: ``data.groups``.
    """
    keys: list[str] = []

    def contents() -> Iterator[bytes]:
        for image in progress(images, len(images), "download: hashes"):
            content = read(image.path)
            keys.append(hashlib.blake2b(content, digest_size=16).hexdigest())
            yield content

    if groups != NEAR_DUPLICATES:
        for _ in contents():
            pass
        return keys
    from pipeline.images.duplicates import near_duplicate_groups

    found = near_duplicate_groups(contents())
    for rows in found:
        # The least one, so that neither names nor order matter.
        least = min(keys[row] for row in rows)
        for row in rows:
            keys[row] = least
    say(f"download: {sum(map(len, found)):,} images are near-duplicates; each of {len(found):,} groups stays together")
    return keys
