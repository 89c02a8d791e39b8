import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, fisher_exact

from fastadv.evaluation.statistics import Rate, fisher_test, sign_test


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilson_s(case):
    count, n = case
    expected = binomtest(count, n).proportion_ci(method="wilson")
    assert Rate(count, n).interval() == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("n", [1, 7, 450])
def test_the_interval_ends_at_0_and_1_exactly_and_has_a_width_there(n):
    assert Rate(0, n).interval()[0] == 0 < Rate(0, n).interval()[1] < 1
    assert Rate(n, n).interval()[1] == 1 > Rate(n, n).interval()[0] > 0


def test_the_widths_that_are_quoted_hold():
    low, high = Rate(500, 1000).interval()
    assert (high - low) / 2 == pytest.approx(0.031, abs=5e-4)


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_sign_test_is_the_exact_two_sided_binomial_test(first, second):
    expected = binomtest(first, first + second).pvalue if first + second else 1
    assert sign_test(first, second) == pytest.approx(expected, rel=1e-9)
    assert sign_test(first, second) == sign_test(second, first)


rates = st.integers(1, 400).flatmap(lambda n: st.builds(Rate, st.integers(0, n), st.just(n)))


@given(rates, rates)
def test_fisher_s_test_is_the_exact_one_sided_one(first, second):
    table = [[rate.count, rate.n - rate.count] for rate in (first, second)]
    expected = fisher_exact(table, alternative="greater").pvalue
    assert fisher_test(first, second) == pytest.approx(expected, rel=1e-6, abs=1e-300)


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="counts must be at least 0, got 3 and -1"):
        sign_test(3, -1)
