"""Fixtures of the tests of stage ``augment``."""

import numpy as np
import pytest

from tests.support import audits


@pytest.fixture(autouse=True)
def same_noise(monkeypatch):
    """The images of a test do not depend on which tests ran before it."""
    monkeypatch.setattr(audits, "RANDOM", np.random.default_rng(0))
