"""The shipped tables against the raw files, and fleets drawn from them."""

import json

import numpy as np
import pytest
from scipy import stats

from fedjax_sim.core.checks import InputError
from fedjax_sim.systems.devices import phones, speeds_at
from fedjax_sim.systems.fleet import fleet
from fedjax_sim.systems.networks import mobile, steady


def test_the_table_of_phones_is_that_of_the_raw_list(data_dir):
    raw = json.loads((data_dir / "flash" / "raw_ai_benchmark_list.json").read_text())
    scores = np.sort([float(phone["CPU_F_AI_Score"]) for phone in raw])
    np.testing.assert_allclose(phones(), scores / np.median(scores), rtol=1e-12)


def test_the_table_of_links_is_that_of_the_raw_users(data_dir):
    raw = json.loads((data_dir / "flash" / "speed_distri.json").read_text())
    names = ("down_u", "down_sigma", "up_u", "up_sigma")
    users = np.array([[user[n] for n in names] for user in raw.values()])
    np.testing.assert_allclose(mobile(), users * 1024, rtol=1e-5)


def test_what_the_tables_say_without_the_raw_files():
    speeds = phones()
    assert speeds.shape == (333,) and np.median(speeds) == 1.0
    assert (np.diff(speeds) >= 0).all()
    assert speeds[-1] / speeds[0] == pytest.approx(4310 / 105)
    assert mobile().shape == (19, 4)
    np.testing.assert_allclose(np.median(mobile(), axis=0)[[0, 2]] / 1024, [4317.63, 3285.69])


def test_a_fleet_has_the_distribution_of_the_table():
    drawn = fleet(20_000, seed=3, median_flops=5e8)
    ours = np.searchsorted(phones() * 5e8, drawn.flops_per_s, side="right") / 333
    wanted = np.searchsorted(phones(), phones(), side="right") / 333
    assert stats.ks_2samp(ours, np.repeat(wanted, 60)).pvalue > 1e-3
    rows = np.stack([drawn.down_mean, drawn.down_sigma, drawn.up_mean, drawn.up_sigma], 1)
    users, counts = np.unique(rows, axis=0, return_counts=True)
    np.testing.assert_allclose(users, np.unique(mobile(), axis=0))
    assert stats.chisquare(counts).pvalue > 1e-3
    assert abs(np.corrcoef(drawn.flops_per_s, drawn.down_mean)[0, 1]) < 4 / np.sqrt(20_000)


@pytest.mark.parametrize("wanted", [-1.0, -0.4, 0.0, 0.7, 1.0])
def test_speed_goes_with_size_as_asked(wanted):
    n = 20_000
    sizes = np.random.default_rng(0).lognormal(3, 1, n)
    drawn = fleet(n, seed=1, correlated_with=sizes, correlation=wanted)
    found = stats.spearmanr(sizes, drawn.flops_per_s).statistic
    assert abs(found - wanted) < 4 / np.sqrt(n)
    plain = np.sort(fleet(n, seed=2).flops_per_s)
    assert abs(np.median(drawn.flops_per_s) / np.median(plain) - 1) < 0.05


def test_speed_goes_with_groups():
    group = np.arange(3000) % 3
    drawn = fleet(3000, correlated_with=group, correlation=0.9)
    means = [drawn.flops_per_s[group == g].mean() for g in range(3)]
    assert means[0] < 0.7 * means[1] < 0.7 * means[2]


def test_a_fleet_is_its_seeds():
    a, b, c = fleet(50, seed=1), fleet(50, seed=1), fleet(50, seed=2)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert (a.flops_per_s != c.flops_per_s).any()


def test_a_table_is_read_at_its_quantiles():
    at = np.array([0.0, 0.24, 0.25, 0.99, 1.0])
    np.testing.assert_array_equal(speeds_at(at, np.array([4.0, 1.0, 3.0, 2.0])), [1, 1, 2, 4, 4])
    one = fleet(5, devices=(1.0,), links=steady(100.0, 50.0), median_flops=7.0)
    assert set(one.flops_per_s) == {7.0} and set(one.up_mean) == {50.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"correlation": 0.5}, r"correlation = 0\.5: needs correlated_with"),
        ({"correlation": 1.5, "correlated_with": np.ones(4)}, r"correlation = 1\.5: .*at most 1"),
        ({"correlation": 0.5, "correlated_with": np.ones(3)}, r"must be of 4 clients"),
        ({"devices": ()}, r"devices = an empty table"),
        ({"devices": (1.0, -1.0)}, r"devices = .*greater than 0"),
        ({"links": np.ones((2, 3))}, r"links = .*\[U, 4\]"),
        ({"links": np.zeros((2, 4))}, r"(?s)links = .*greater than 0"),
        ({"online": 1.2}, r"online = 1\.2"),
        ({"median_flops": 0}, r"median_flops = 0"),
    ],
)
def test_bad_input_is_named(given, message):
    with pytest.raises(InputError, match=message):
        fleet(4, **given)
