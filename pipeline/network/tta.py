"""Test-time augmentation: the mean of the logits over variants of an image."""

from torch import Tensor

from pipeline.network.batches import resized

# Those that need nothing but the image; parameters also allow the stored views, and auto.
METHODS = ("none", "hflip", "five_crop", "ten_crop")
# Of the side of an image.
CROP = 7 / 8


def variants(images: Tensor, method: str) -> list[Tensor]:
    """The variants of images ``(n, 3, size, size)``, each of the same shape.

    Args:
        images: in any range: a crop is resized by bilinear interpolation, so that it does not matter whether pixels
            are normalised before or afterwards.
        method: ``hflip``: the image and its mirror image; ``five_crop``: the corners and the centre, as in torchvision,
            of 7/8 of the side and resized to ``size``; ``ten_crop``: these and their mirror images; any other name: the
            image.
    """
    chosen, size = [images], images.shape[-1]
    if method in ("five_crop", "ten_crop"):
        side = round(CROP * size)
        end, middle = size - side, round((size - side) / 2)
        corners = [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)]
        chosen = [resized(images[..., y : y + side, x : x + side], size) for y, x in corners]
    if method in ("hflip", "ten_crop"):
        chosen += [image.flip(-1) for image in chosen]
    return chosen
