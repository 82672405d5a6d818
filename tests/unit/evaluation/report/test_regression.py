"""Residuals far from the others, against the definition."""

import numpy as np
import pytest
from scipy import stats

from mtbert.evaluation.report.regression import outliers


def test_z_is_in_robust_standard_deviations():
    random = np.random.default_rng(0)
    labels = random.uniform(0, 5, 101)
    predicted = labels + random.normal(0.3, 0.5, 101)
    predicted[[7, 50]] += (4, -9)
    residuals = predicted - labels
    middle = np.sort(residuals)[50]
    z = (residuals - middle) / (1.4826 * np.sort(np.abs(residuals - middle))[50])
    found, scores = outliers(labels, predicted)
    assert set(found) == set(np.flatnonzero(np.abs(z) > 3))
    assert found[0] == 50
    assert scores == pytest.approx(z[found])
    assert (np.diff(np.abs(scores)) <= 0).all()


def test_the_robust_deviation_of_a_normal_variable_is_its_own():
    residuals = 2 * stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    found, _ = outliers(np.zeros(100_000), residuals)
    assert len(found) / 100_000 == pytest.approx(2 * stats.norm.sf(3), abs=3e-5)
    assert np.abs(residuals[found]).min() == pytest.approx(6, abs=1e-2)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_equal_residuals_have_no_outlier(count):
    found, z = outliers(np.zeros(count), np.ones(count))
    assert len(found) == len(z) == 0
