"""Intervals of a mean over prompts: against other implementations, and by how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from analysis.intervals import detectable, few_prompts_text, interval, intervals

SKEWED = np.random.default_rng(3).lognormal(0, 0.8, 16)


def test_few_prompts_have_students_interval_and_two_have_none():
    # t(0.975, 4) = 2.776445
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert interval([1.0, 2.0]) is None


def test_an_interval_is_the_wider_of_scipys_bootstrap_t_and_scipys_paired_t_test():
    other = np.random.default_rng(4).normal(size=16)
    low, high = interval((SKEWED - other).tolist())

    def ratio(sample, axis):
        off = sample.mean(axis=axis) - (SKEWED - other).mean()
        return off / (sample.std(axis=axis, ddof=1) / math.sqrt(16))

    bootstrap = scipy.stats.bootstrap(
        (SKEWED - other,), ratio, n_resamples=20_000, confidence_level=0.96, method="percentile", rng=5
    ).confidence_interval
    error = (SKEWED - other).std(ddof=1) / math.sqrt(16)
    mean = (SKEWED - other).mean()
    student = scipy.stats.ttest_rel(SKEWED, other).confidence_interval(0.95)
    # Two sets of 20,000 resamples place such quantiles a few hundredths of the interval apart.
    near = 0.05 * (high - low)
    assert low == pytest.approx(min(student.low, mean - bootstrap.high * error), abs=near)
    assert high == pytest.approx(max(student.high, mean - bootstrap.low * error), abs=near)
    # The tail that a sample of skewed prompts announces is longer than Student's.
    assert high > student.high + 2 * near


def test_the_order_of_prompts_changes_nothing_and_a_turned_sign_turns_the_interval():
    low, high = interval(SKEWED.tolist())
    assert interval(SKEWED[::-1].tolist()) == (low, high)
    assert interval((-SKEWED).tolist()) == pytest.approx((-high, -low), rel=1e-12)
    assert intervals(np.stack([SKEWED, 7 + 2 * SKEWED]))[1] == pytest.approx([7 + 2 * low, 7 + 2 * high], rel=1e-9)


@pytest.mark.parametrize("values", [[0.0] * 15 + [1.0], [1.0] * 9 + [2.0] * 2])
def test_where_resamples_have_no_spread_an_end_is_students(values):
    student = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    low, high = interval(values)
    assert low <= student.low and high >= student.high and math.isfinite(low) and math.isfinite(high)
    assert interval([0.3] * 16) == pytest.approx((0.3, 0.3), rel=1e-12)


@pytest.mark.parametrize("prompts", [4, 16])
def test_the_detectable_difference_is_found_by_a_paired_t_test_in_four_samples_of_five(prompts):
    rng = np.random.default_rng(prompts)
    one, two = rng.normal(size=(2, 8_000, prompts))
    # Of differences whose deviation is known to be the root of two.
    known = np.array([-1.0, 1.0] * (prompts // 2)) * math.sqrt(2) * math.sqrt((prompts - 1) / prompts)
    found = scipy.stats.ttest_rel(one + detectable(known.tolist()), two, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.015)
    assert detectable([1.0, 2.0]) is None and detectable([1.0, 1.0, 1.0]) == 0


def test_a_table_says_when_prompts_are_few():
    assert few_prompts_text([8, 64]) == few_prompts_text([]) == ""
    text = "Over fewer than 8 prompts an interval means little; over fewer than 3 there is none."
    assert few_prompts_text([64, 7]) == text


def sweeps(effect, prompts, count=1_000):
    """Return simulated sweeps ``(count, prompts)`` whose true mean is 0: each prompt's mean of 1 to 3 seeds."""
    rng = np.random.default_rng([17, prompts])
    if effect == "normal":
        effects = rng.normal(size=(count, prompts))
    else:
        draws = rng.lognormal(0, effect, (count, prompts))
        variance = math.expm1(effect**2) * math.exp(effect**2)
        effects = (draws - math.exp(effect**2 / 2)) / math.sqrt(variance)
    noise = rng.normal(0, 0.5, (count, prompts, 3))
    is_seed = np.arange(3) < rng.integers(1, 4, (count, prompts, 1))
    return effects + np.where(is_seed, noise, 0).sum(-1) / is_seed.sum(-1)


def coverage(samples, ends=intervals, batch=100):
    """Return in how many of the samples, in per cent, the interval holds the true mean."""
    found = np.concatenate([ends(samples[start : start + batch]) for start in range(0, len(samples), batch)])
    return 100 * ((found[:, 0] <= 0) & (found[:, 1] >= 0)).mean()


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [16, 64])
# Of a lognormal effect with sigma 1, whose skewness is 6.2, a sample of 16 often knows too little.
@pytest.mark.parametrize(("effect", "least"), [("normal", 93), (0.5, 93), (1.0, 92)])
def test_an_interval_holds_the_truth_of_95_sweeps_in_a_hundred(effect, least, prompts):
    assert least <= coverage(sweeps(effect, prompts)) <= 97


def student(samples):
    return np.stack(scipy.stats.ttest_1samp(samples, 0, axis=-1).confidence_interval(0.95), axis=-1)


def scipy_bootstrap(method):
    def ends(samples):
        found = scipy.stats.bootstrap((samples,), np.mean, axis=-1, n_resamples=1_000, method=method, rng=1)
        return np.stack(found.confidence_interval, axis=-1)

    return ends


@pytest.mark.slow
def test_plainer_intervals_hold_the_truth_of_skewed_prompts_too_rarely():
    skewed = sweeps(1.0, 16)
    ours = coverage(skewed)
    for ends in (student, scipy_bootstrap("percentile"), scipy_bootstrap("BCa")):
        assert coverage(skewed, ends) < min(92, ours - 1)
