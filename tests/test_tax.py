"""The tax schedule against hand values and exact fractions; coin is conserved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import tax as naive

from fastenvs import tax

US = tax.us_federal_brackets()


@pytest.mark.parametrize(
    ("income", "due"), [(9.7, 0.97), (39.475, 4.543), (84.2, 14.3825), (160.725, 32.7485), (0, 0), (-5, 0)]
)
def test_us_federal_hand_values(income, due):
    assert tax.taxes_due([[income]], tax.US_FEDERAL_RATES, US)[0, 0] == pytest.approx(due, abs=1e-12)


def test_brackets():
    np.testing.assert_array_equal(US, [0, 9.7, 39.475, 84.2, 160.725, 204.1, 510.3])
    np.testing.assert_allclose(tax.log_brackets(5, 100), [0, 12.5, 25, 50, 100], rtol=1e-14)
    np.testing.assert_allclose(tax.linear_brackets(5, 100), [0, 25, 50, 75, 100])


def test_marginal_rate_at_edges_and_around_zero():
    rates = np.arange(1, 8) / 10
    incomes = [[-1.0, -1e-6, -9e-7, 0.0, 9.7 - 1e-9, 9.7, 510.3, 1e9]]
    got = tax.marginal_rate(incomes, rates, US)[0]
    np.testing.assert_array_equal(got, [0, 0, 0.1, 0.1, 0.1, 0.2, 0.7, 0.7])


@st.composite
def economies(draw):
    n, agents, brackets = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 7))
    steps = draw(st.lists(st.floats(0.01, 300), min_size=brackets - 1, max_size=brackets - 1))
    cutoffs = np.concatenate([[0.0], np.cumsum(steps)])
    number = st.floats(-200, 2000, allow_nan=False)
    income = [[draw(number) for _ in range(agents)] for _ in range(n)]
    if brackets > 1 and draw(st.booleans()):
        income[0][0] = cutoffs[1]
    coin = [[draw(st.floats(0, 1000)) for _ in range(agents)] for _ in range(n)]
    rates = [[draw(st.floats(0, 1)) for _ in range(brackets)] for _ in range(n)]
    return np.array(income), np.array(coin), np.array(rates), cutoffs


@settings(deadline=None, max_examples=150)
@given(economies(), st.sampled_from(tax.REBATES))
def test_against_the_naive_reference(economy, rule):
    income, coin, rates, cutoffs = economy
    due, at = tax.taxes_due(income, rates, cutoffs), tax.marginal_rate(income, rates, cutoffs)
    kept = coin.copy()
    got = tax.collect_and_redistribute(income, coin, rates, cutoffs, rule)
    np.testing.assert_array_equal(coin, kept)
    average = tax.average_rate(income, rates, cutoffs)
    np.testing.assert_allclose(average, np.where(income > 1e-6, due / np.maximum(income, 1e-6), 0), rtol=1e-12)
    assert ((average >= 0) & (average <= rates.max(1, keepdims=True) + 1e-12)).all()
    for e in range(len(income)):
        want = [float(naive.tax_due(z, rates[e], cutoffs)) for z in income[e]]
        np.testing.assert_allclose(due[e], want, rtol=1e-12, atol=1e-12)
        assert at[e].tolist() == [naive.marginal_rate(z, rates[e], cutoffs) for z in income[e]]
        paid, share, after = naive.collect(income[e].tolist(), coin[e], rates[e], cutoffs, rule)
        np.testing.assert_allclose(got.paid[e], paid, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got.rebate[e], share, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got.coin[e], after, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(got.coin.sum(1), coin.sum(1), rtol=1e-12, atol=1e-9)
    assert (got.coin >= 0).all()
    assert (got.paid <= coin).all()
    np.testing.assert_array_equal(got.marginal_rate, at)
    np.testing.assert_array_equal(got.effective_rate, got.paid / np.maximum(1e-6, income))


def test_tax_grows_with_income_and_with_rates():
    z = np.linspace(-10, 900, 500)[None]
    due = tax.taxes_due(z, tax.US_FEDERAL_RATES, US)
    assert (np.diff(due) >= 0).all()
    assert (tax.taxes_due(z, np.minimum(1, np.array(tax.US_FEDERAL_RATES) + 0.1), US) >= due).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: tax.taxes_due([1.0], [0.1], [0.0]), r"income must have shape"),
        (lambda: tax.taxes_due([[1.0]], [0.1, 0.2], [0.0]), r"rates must have shape"),
        (lambda: tax.taxes_due([[1.0, np.nan]], [0.1], [0.0]), r"income at \(0, 1\)"),
        (lambda: tax.taxes_due([[1.0]], [1.1], [0.0]), r"rates at \(0,\)"),
        (lambda: tax.taxes_due([[1.0]], [np.nan], [0.0]), r"rates at \(0,\)"),
        (lambda: tax.taxes_due([[1.0]], [0.1, 0.2], [0.0, 0.0]), r"cutoffs"),
        (lambda: tax.taxes_due([[1.0]], [0.1], [1.0]), r"cutoffs"),
        (lambda: tax.collect_and_redistribute([[1.0]], [[-1.0]], [0.1], [0.0]), r"coin at"),
        (lambda: tax.collect_and_redistribute([[1.0]], [[1.0, 2.0]], [0.1], [0.0]), r"coin must"),
        (lambda: tax.log_brackets(1, 10), "n_brackets"),
        (lambda: tax.linear_brackets(3, 0), "top_cutoff"),
        (lambda: tax.us_federal_brackets(-1), "usd_scale"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_the_first_marginal_rates_are_those_of_no_income():
    periodic = tax.PeriodicTax(2, 3, [0.0, 10.0], period=4)
    periodic.set_rates([0.3, 0.5])
    periodic.begin(np.ones((2, 3)))
    assert (periodic.taxes.marginal_now == 0.3).all()
