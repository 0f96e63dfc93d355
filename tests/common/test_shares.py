"""Intervals of shares: coverage over all possible samples, and scipy's."""

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial

from pipeline.common.shares import bonett_price, wilson


def test_wilsons_interval_equals_scipys():
    images = np.repeat([1, 7, 359], 3)
    hits = np.array([0, 1, 1, 0, 3, 7, 0, 356, 359])
    expected = [binomtest(*pair).proportion_ci(0.95, "wilson") for pair in zip(hits, images, strict=True)]
    np.testing.assert_allclose(wilson(hits, images).T, expected, atol=1e-12)
    assert np.isnan(wilson(0, 0)).all()


@pytest.mark.parametrize(
    ("images", "gained", "lost", "coverage"),
    [(100, 0.02, 0.02, 0.995), (359, 0.01, 0.003, 0.975), (620, 0.05, 0.03, 0.953), (620, 0.002, 0.002, 0.999)],
)
def test_coverage_of_bonett_and_prices_interval_over_all_possible_samples(images, gained, lost, coverage):
    more, less = (counts.ravel() for counts in np.indices((60, 60)))
    more, less = more[more + less <= images], less[more + less <= images]
    probability = multinomial.pmf(
        np.stack([more, less, images - more - less], 1), images, [gained, lost, 1 - gained - lost]
    )
    low, high = bonett_price(more, less, images)
    assert probability.sum() == pytest.approx(1, abs=1e-3)
    assert probability[(low <= gained - lost) & (gained - lost <= high)].sum() == pytest.approx(coverage, abs=0.001)
