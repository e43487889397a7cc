"""Whole comparisons of curves whose truth is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from oracles import compare as oracle

from fedjax_sim.diagnostics.compare import Contestant, Effect, Outcome, compare
from fedjax_sim.diagnostics.targets import DIVERGED, DONE, STOPPED, UNFINISHED, Course

LEVEL = 0.9


def course(seed: int, values: Any, ended: str = DONE, *, rate: float = 100.0) -> Course:
    """A run evaluated every round; `rate` bytes a round, half a second a round."""
    values = np.asarray(values, float)
    rounds = np.arange(1.0, len(values) + 1)
    end: dict[str, float | None] = {"rounds": float(len(values))}
    end |= {"bytes": rate * len(values), "seconds": 0.5 * len(values)}
    good = np.isfinite(values)
    along = rounds[good]
    return Course(seed, along, values[good], rate * along, 0.5 * along, end, ended)


def geometric(seed: int, q: float, rounds: int = 60, **changes: Any) -> Course:
    return course(seed, q ** np.arange(1, rounds + 1), **changes)


def group(name: str, *courses: Course) -> Contestant:
    return Contestant(name, courses)


def find(found: Outcome, measure: str, name: str) -> Effect:
    (effect,) = [e for e in found.effects if (e.measure, e.contestant) == (measure, name)]
    return effect


def row(found: Outcome, name: str) -> dict[str, Any]:
    (one,) = [r for r in found.rows if r["name"] == name]
    return one


def test_two_geometric_rates_differ_by_the_ratio_of_their_logarithms() -> None:
    rates = {"a": [0.8, 0.82, 0.85], "b": [0.9, 0.91, 0.93]}
    a, b = (group(n, *(geometric(i, q) for i, q in enumerate(qs))) for n, qs in rates.items())
    found = compare([a, b], 0.05, -1, level=LEVEL)
    pairs = zip(rates["a"], rates["b"], strict=True)
    logs = np.array([math.log(math.log(p) / math.log(q)) for p, q in pairs])
    for measure in ("rounds", "bytes", "seconds"):
        effect = find(found, measure, "b")
        assert effect.kind == "ratio" and not effect.bound
        assert effect.against.value == pytest.approx(math.exp(logs.mean()), rel=1e-9)
        low, high = oracle.paired_t(np.zeros(3), logs, LEVEL)
        limits = (effect.against.low, effect.against.high)
        np.testing.assert_allclose(limits, np.exp([low, high]), rtol=1e-9)
        assert effect.word == "worse" and effect.against.paired and effect.against.n == 3
    times = [math.log(0.05) / math.log(q) for q in rates["b"]]
    assert row(found, "b")["rounds"] == pytest.approx(oracle.restricted(times, math.inf))
    assert row(found, "b")["bytes"] == pytest.approx(100 * oracle.restricted(times, math.inf))
    assert find(compare([b, a], 0.05, -1), "rounds", "a").word == "better"
    assert find(found, "end", "b").word == "worse" and find(found, "end", "b").kind == "ratio"


def test_bytes_may_say_the_opposite_of_rounds() -> None:
    a = group("a", *(geometric(i, 0.90 - 0.01 * i) for i in range(4)))
    b = group("b", *(geometric(i, 0.80 - 0.01 * i, rate=900.0) for i in range(4)))
    found = compare([a, b], 0.05, -1)
    assert find(found, "rounds", "b").word == "better"
    assert find(found, "bytes", "b").word == "worse"


def random_group(name: str, seed: int, n: int = 5, rounds: int = 40) -> Contestant:
    r = np.random.default_rng(seed)
    walks = [np.cumsum(r.normal(0.02, 0.04, rounds)) for _ in range(n)]
    return group(name, *(course(s, w) for s, w in enumerate(walks)))


def test_the_order_of_seeds_and_of_others_does_not_matter() -> None:
    a, b, c = (random_group(n, i) for i, n in enumerate("abc"))
    found = compare([a, b, c], 0.4, 1)
    turned = compare([a._replace(courses=a.courses[::-1]), c, b], 0.4, 1)
    for measure in ("rounds", "bytes", "seconds", "end", "largest_drop", "spread", "share"):
        for name in "abc":
            assert repr(find(found, measure, name)) == repr(find(turned, measure, name))
    for name in "abc":
        assert row(found, name) == row(turned, name)


def test_against_itself_there_is_exactly_no_difference() -> None:
    a = random_group("a", 3)
    found = compare([a, a._replace(name="again")], 0.3, 1)
    for effect in found.effects:
        none = 1.0 if effect.kind == "ratio" else 0.0
        assert effect.against.value == none, effect
        if effect.measure != "share":
            assert (effect.against.low, effect.against.high) == (none, none)
        assert effect.word == "no difference shown" and effect.why == ""
    assert {k: v for k, v in row(found, "a").items() if k != "name"} == {
        k: v for k, v in row(found, "again").items() if k != "name"
    }


def test_every_figure_of_a_row_is_the_loops() -> None:
    a, b = random_group("a", 7, rounds=47), random_group("b", 8, rounds=47)
    found = compare([a, b], 0.45, 1, level=LEVEL)
    times = {}
    for contestant in (a, b):
        curves = [list(c.values) for c in contestant.courses]
        times[contestant.name] = [
            oracle.to_target(list(range(1, 48)), values, 0.45, True) for values in curves
        ]
        told = row(found, contestant.name)
        assert told["end"] == pytest.approx(np.mean([oracle.end_level(v) for v in curves]))
        assert told["best"] == pytest.approx(np.mean([max(v) for v in curves]))
        for name, of in (("variance", oracle.variance), ("sign_changes", oracle.sign_changes)):
            assert told[name] == pytest.approx(np.mean([of(v) for v in curves])), name
        drops = [oracle.largest_drop(v, True) for v in curves]
        assert told["largest_drop"] == pytest.approx(np.mean(drops))
        spreads = [oracle.spread(v) for v in curves]
        assert told["spread"] == pytest.approx(math.exp(np.mean(np.log(spreads))))
        reached = sum(map(math.isfinite, times[contestant.name]))
        assert (told["reached"], told["not_reached"], told["unknown"]) == (reached, 5 - reached, 0)
        low, high = oracle.wilson(reached, 5, LEVEL)
        assert (told["share_low"], told["share_high"]) == pytest.approx((low, high))
    every = [t for name in "ab" for t in times[name]]
    assert 0 < sum(map(math.isfinite, every)) < 10  # some reach, some do not
    assert found.horizon == 47
    for name in "ab":
        assert row(found, name)["rounds"] == pytest.approx(oracle.restricted(times[name], 47))
    logs = [[math.log(min(t, 47)) for t in times[name]] for name in "ab"]
    against = find(found, "rounds", "b").against
    limits = np.exp(oracle.paired_t(*logs, LEVEL))
    np.testing.assert_allclose((against.low, against.high), limits, rtol=1e-9)


def test_a_run_that_never_reaches_counts_as_the_whole_run_and_is_said() -> None:
    a = group("a", *(geometric(i, 0.8) for i in range(3)))
    b = group("b", geometric(0, 0.8), geometric(1, 0.999), geometric(2, 0.999))
    found = compare([a, b], 0.1, -1)
    exact = math.log(0.1) / math.log(0.8)
    effect = find(found, "rounds", "b")
    assert effect.bound and not find(found, "rounds", "a").bound
    assert effect.own.value == pytest.approx((exact * 60 * 60) ** (1 / 3))
    assert effect.against.value == pytest.approx((60 / exact) ** (2 / 3))
    assert row(found, "b")["reached"] == 1 and row(found, "b")["rounds_is_bound"]
    assert find(found, "share", "b").own.value == pytest.approx(1 / 3)
    none = compare([b, a], 1e-30, -1)
    for measure in ("rounds", "bytes", "seconds"):
        assert find(none, measure, "a").word == "cannot say"
        assert find(none, measure, "a").why == "neither reaches the target"


def test_longer_runs_get_no_more_time_than_the_shortest_that_failed() -> None:
    short = group("short", *(course(i, [0.1] * 50) for i in range(3)))
    late = group("late", *(course(i, [0.1] * 80 + [0.9] * 20) for i in range(3)))
    early = group("early", *(course(i, [0.1] * 30 + [0.9] * 70) for i in range(3)))
    found = compare([short, late, early], 0.5, 1)
    assert found.horizon == 50
    assert row(found, "late")["reached"] == 0
    assert row(found, "late")["rounds"] == pytest.approx(50)
    assert row(found, "early")["reached"] == 3
    # Where every run reached it there is no need to stop: all of it is known.
    whole = compare([late, early], 0.5, 1)
    assert math.isinf(whole.horizon)
    assert row(whole, "late")["rounds"] == pytest.approx(80.5)


def test_an_unfinished_run_is_neither_reached_nor_failed() -> None:
    a = group("a", *(geometric(i, 0.8) for i in range(3)))
    cut = geometric(0, 0.9, rounds=5, ended=UNFINISHED)
    b = group("b", cut, geometric(1, 0.9), geometric(2, 0.9))
    found = compare([a, b], 0.1, -1)
    told = row(found, "b")
    assert (told["reached"], told["not_reached"], told["unknown"]) == (2, 0, 1)
    effect = find(found, "rounds", "b")
    assert effect.against.n == 2 and not effect.bound and math.isinf(found.horizon)
    assert effect.own.value == pytest.approx(math.log(0.1) / math.log(0.9))
    assert find(found, "end", "b").against.n == 3  # used as far as it goes
    # One that met the target before it was cut off has reached it.
    enough = b._replace(courses=(geometric(0, 0.9, rounds=30, ended=UNFINISHED), *b.courses[1:]))
    assert row(compare([a, enough], 0.1, -1), "b")["reached"] == 3


@pytest.mark.parametrize("ended", [DIVERGED, STOPPED])
def test_a_run_that_gave_up_never_reaches_and_shortens_no_one(ended: str) -> None:
    a = group("a", *(geometric(i, 0.9) for i in range(3)))
    gone = course(0, [0.9, 0.8, math.nan], ended)
    b = group("b", gone, geometric(1, 0.9), geometric(2, 0.9))
    found = compare([a, b], 0.1, -1)
    told = row(found, "b")
    assert (told["reached"], told["not_reached"], told["unknown"]) == (2, 1, 0)
    assert told["diverged"] == (1 if ended == DIVERGED else 0)
    exact = math.log(0.1) / math.log(0.9)
    assert found.horizon == 60 and row(found, "a")["rounds"] == pytest.approx(exact)
    assert told["rounds"] == pytest.approx((exact * exact * 60) ** (1 / 3))
    assert find(found, "end", "b").against.n == (2 if ended == DIVERGED else 3)


def test_all_diverged_is_told_and_not_hidden() -> None:
    a = group("a", *(geometric(i, 0.9) for i in range(3)))
    b = group("b", *(course(i, [math.nan] * 2, DIVERGED) for i in range(3)))
    found = compare([a, b], 0.1, -1)
    assert find(found, "rounds", "b").word == "worse" and find(found, "rounds", "b").bound
    assert find(found, "share", "b").word == "worse"
    for measure in ("end", "largest_drop", "spread"):
        assert (find(found, measure, "b").word, find(found, measure, "b").why) == (
            "cannot say",
            "all diverged",
        )
    assert row(found, "b")["end"] is None and row(found, "b")["best"] is None


def test_one_seed_gives_values_and_no_word() -> None:
    found = compare([group("a", geometric(0, 0.8)), group("b", geometric(0, 0.9))], 0.1, -1)
    for effect in found.effects:
        if effect.contestant == "b":
            assert (effect.word, effect.why) == ("cannot say", "one seed"), effect
    ratio = find(found, "rounds", "b").against
    assert ratio.value == pytest.approx(math.log(0.8) / math.log(0.9))
    assert row(found, "b")["rounds_low"] is None


def test_few_evaluations_are_named_as_the_reason() -> None:
    a, b = (group(n, *(course(i, [0.1, 0.4, 0.5]) for i in range(3))) for n in "ab")
    found = compare([a, b], 0.3, 1)
    assert find(found, "spread", "b").why == "too few evaluations"


def test_what_one_does_not_record_is_not_compared() -> None:
    a, b = random_group("a", 1), random_group("b", 2)
    bare = [c._replace(seconds=None, end=c.end | {"seconds": None}) for c in b.courses]
    found = compare([a, b._replace(courses=tuple(bare))], 0.3, 1)
    assert {e.measure for e in found.effects if e.effect == "faster"} == {"rounds", "bytes"}
    assert "seconds" not in row(found, "a")


def test_steadier_is_told_from_swings() -> None:
    r = np.random.default_rng(0)
    calm = group("calm", *(course(i, 0.5 + 0.001 * r.normal(size=60)) for i in range(5)))
    wild = group("wild", *(course(i, 0.5 + 0.1 * r.normal(size=60)) for i in range(5)))
    found = compare([calm, wild], 0.4, 1)
    assert find(found, "largest_drop", "wild").word == "worse"
    assert find(found, "spread", "wild").word == "worse"
    assert find(found, "spread", "wild").against.value == pytest.approx(100, rel=0.3)
    assert find(compare([wild, calm], 0.4, 1), "spread", "calm").word == "better"


@pytest.mark.parametrize("n", [3, 5])
def test_intervals_of_whole_comparisons_cover_as_promised(n: int) -> None:
    """Rates that vary by seed, half of it shared; the truth is the ratio of typical rounds."""
    r, draws, true, hits, wrong = np.random.default_rng(n), 400, 1.5, 0, 0
    for _ in range(draws):
        luck = r.normal(0, 0.3, n)
        own = r.normal(0, 0.2, (2, n))
        typical = np.array([[20.0], [20.0 * true]]) * np.exp(luck + own)  # rounds to 0.1
        a, b = (
            group(name, *(geometric(i, 0.1 ** (1 / t), 200) for i, t in enumerate(times)))
            for name, times in zip("ab", typical, strict=True)
        )
        effect = find(compare([a, b], 0.1, -1, level=0.9), "rounds", "b")
        hits += effect.against.low <= true <= effect.against.high
        wrong += effect.word == "better"
    error = 4 * math.sqrt(0.9 * 0.1 / draws)
    assert abs(hits / draws - 0.9) < error, hits / draws
    assert wrong / draws < 0.05


def test_words_are_wrong_no_more_often_than_promised() -> None:
    """Two settings of one truth: at 90 % a word is claimed in a tenth of all comparisons."""
    r, draws, said = np.random.default_rng(0), 400, 0
    for _ in range(draws):
        luck = r.normal(0, 0.3, 5)
        both = 20 * np.exp(luck + r.normal(0, 0.2, (2, 5)))
        a, b = (
            group(name, *(geometric(i, 0.1 ** (1 / t), 150) for i, t in enumerate(times)))
            for name, times in zip("ab", both, strict=True)
        )
        word = find(compare([a, b], 0.1, -1, level=0.9), "rounds", "b").word
        said += word in ("better", "worse")
    assert abs(said / draws - 0.1) < 4 * math.sqrt(0.1 * 0.9 / draws), said / draws
