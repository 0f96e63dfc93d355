"""What one section says about another: values that are allowed by themselves, but not together."""

from collections.abc import Iterator

from pipeline.params.schema import Params

# The layers of models.Classifier by name, so that no command has to import torch in order to know them.
_BLOCKS = [name for b in range(5) for name in (f"blocks.{b}", *(f"blocks.{b}.{layer}" for layer in range(4)))]
_HIDDEN = [name for h in ("hidden1", "hidden2") for name in (h, *(f"{h}.{layer}" for layer in range(3)))]
CLASSIFIER_LAYERS = ("blocks", *_BLOCKS, "flatten", *_HIDDEN, "output")


def contradictions(params: Params) -> Iterator[str]:
    """Give a line for each parameter that does not go with one of another section: key, what was found, what is
    allowed.

    What only the images can tell is left to the stages, and what only a library can to ``preflight``.
    """
    yield from _of_classes(params)
    yield from _of_splits(params)
    yield from _of_views(params)
    yield from _of_layers(params)


def _of_classes(params: Params) -> Iterator[str]:
    count = params.data.class_count
    if count is None:
        return
    if params.train.loss == "bce" and count != 2:
        yield f"train.loss: got bce, which needs 2 classes, not {count}; use cross_entropy"
    most = max(count - 1, 2)
    if params.evaluate.top_k > most:
        allowed = "2" if most == 2 else f"2 to {most}"
        yield f"evaluate.top_k: got {params.evaluate.top_k}, allowed with {count} classes is {allowed}; lower it"


def _of_splits(params: Params) -> Iterator[str]:
    if params.data.source != "digits" or params.data.test_fraction:
        return
    for name, section in (("evaluate", params.evaluate), ("tsne", params.tsne), ("predict", params.predict)):
        if section.split == "test":
            yield f"{name}.split: got test, but data.test_fraction is 0; raise that, or choose auto or valid"


def _of_views(params: Params) -> Iterator[str]:
    for name, section in (("evaluate", params.evaluate), ("predict", params.predict)):
        key = "views" if section.split == "train" else "test_views"
        if section.tta and not getattr(params.augment, key):
            yield f"{name}.tta: got true, but augment.{key} is 0; set that to 1 or more, or {name}.tta to false"


def _of_layers(params: Params) -> Iterator[str]:
    if params.model.name != "classifier":
        return
    for layer in params.tsne.layers:
        if layer not in CLASSIFIER_LAYERS:
            yield f"tsne.layers: got {layer!r}, allowed with classifier are {', '.join(CLASSIFIER_LAYERS)}; change it"
