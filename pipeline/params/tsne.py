"""The section ``tsne``: the picture of what the network learned."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.params.base import Section


class TsneParams(Section):
    """Which features ``tsne`` draws, and how."""

    layers: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        description="layers to draw, the last is rated: blocks.0 to blocks.4, hidden1, hidden2, output"
    )
    split: Literal["auto", "test", "valid", "train"] = Field(
        description="auto takes test where it is labelled, else valid"
    )
    max_images: int = Field(ge=10, description="at most so many images, evenly spread over the split")
    pca_components: int = Field(ge=2, description="principal components that t-SNE gets")
    perplexity: float = Field(gt=1, description="effective number of neighbours; at most a third of the images")
    exaggeration: float = Field(
        ge=1,
        le=100,
        description="attraction after the first 250 steps; 1 is plain t-SNE, up to 4 suits 100,000 images and more",
    )

    @field_validator("layers")
    @classmethod
    def _layers_differ(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        if not layers:
            raise ValueError("names no layer; name one, such as hidden2")
        for name in layers:
            if layers.count(name) > 1:
                raise ValueError(f"names {name!r} twice; remove one of them")
        return layers
