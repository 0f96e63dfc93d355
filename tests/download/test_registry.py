"""The registry of sources."""

from typing import get_args

from pipeline.download.sources import SOURCES
from pipeline.params.schema import DataParams


def test_registry_has_exactly_the_sources_that_the_parameter_allows():
    assert tuple(SOURCES) == get_args(DataParams.model_fields["source"].annotation)
