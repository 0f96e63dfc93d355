"""The section ``tsne``: the picture of what the network learned."""

from typing import Literal

from pydantic import Field

from pipeline.params.base import Section


class TsneParams(Section):
    """Which features ``tsne`` draws, and how."""

    layer: str = Field(description="the layer whose output is drawn: blocks.0 to blocks.4, hidden1, hidden2, output")
    split: Literal["auto", "test", "valid", "train"] = Field(
        description="auto takes test where it is labelled, else valid"
    )
    max_images: int = Field(ge=10, description="at most so many images, evenly spread over the split")
    pca_components: int = Field(ge=2, description="principal components that t-SNE gets")
    perplexity: float = Field(gt=1, description="effective number of neighbours; at most a third of the images")
