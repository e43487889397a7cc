"""The verdict: named situations, invariances, both doors, and a labelled little suite."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.checks import InputError
from fedjax_sim.diagnostics.rules import NAMES
from fedjax_sim.diagnostics.series import empty, push
from fedjax_sim.diagnostics.verdict import Verdict, verdict


def noise(rounds: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=rounds)


def curves(rounds: int) -> dict[str, tuple[str, np.ndarray]]:
    """Situations of any length, by name, with their truth and floor 0."""
    t = np.arange(rounds)
    u, half = t / rounds, rounds // 2
    wave = np.sin(2 * np.pi * t / 7)
    return {
        "geometric, done": ("converged", 1e-6**u),
        "geometric, under way": ("converging", 0.1**u),
        "1/t": ("converging", 1 / (1 + 40 * u)),
        "noise ball, low": ("converged", 1e-9**u + 0.01 + 0.004 * noise(rounds)),
        "noise ball, high": ("stagnating", 0.4 + 0.6 * 1e-9**u + 0.05 * noise(rounds)),
        "noisy but falling": ("converging", 0.1**u * (1 + 0.05 * noise(rounds))),
        "saddle plateau": ("stagnating", 0.5 + 0.5 * 1e-20**u),
        "tiny rate": ("stagnating", 1 - 0.01 * u),
        "never moved": ("stagnating", np.ones(rounds)),
        "alternation": ("oscillating", 0.5 + 0.3 * (-1.0) ** t),
        "wave": ("oscillating", 0.5 + 0.3 * wave),
        "wave in noise": ("oscillating", 0.5 + 0.3 * wave + 0.05 * noise(rounds)),
        "wave that dies out": ("converged", 1e-6**u * (1.2 + wave)),
        "explosion": ("diverging", 1e6**u),
        "slow growth after a fall": ("diverging", 1e-9**u + 0.01 * 1000 ** np.maximum(u - 0.3, 0)),
        "growing wave": ("diverging", 1 + 50 ** (2 * u - 1) * (1 + wave)),
        "a bump, then down": ("converged", np.where(t < half / 2, 1 + 9 * u, 1e-8**u)),
    }


@pytest.mark.parametrize("rounds", [120, 1500])
@pytest.mark.parametrize("name", curves(60))
def test_named_situations(name: str, rounds: int) -> None:
    truth, y = curves(rounds)[name]
    found = verdict({"loss": y}, floor=0.0)
    assert found.name == truth, (found.sentence, found.evidence)
    assert 0.5 <= found.confidence <= 1
    assert found.cause and found.remedy and found.sentence.endswith(".")


@pytest.mark.parametrize("name", curves(60))
def test_units_do_not_matter(name: str) -> None:
    truth, y = curves(120)[name]
    for scale, shift in ((1e-6, 0.0), (1e6, 0.0), (3.0, -20.0), (0.01, 5.0)):
        assert verdict({"loss": scale * y + shift}, floor=shift).name == truth, (scale, shift)


def test_streamed_in_float32_says_the_same_as_offline() -> None:
    together = curves(400)
    values = jnp.asarray(np.stack([y for _, y in together.values()], 1))
    start = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(together), *x.shape)), empty())
    body = lambda s, y: (jax.vmap(push)(s, y), None)  # noqa: E731
    state = jax.tree.map(np.asarray, jax.jit(lambda v: jax.lax.scan(body, start, v)[0])(values))
    for i, (name, (truth, _)) in enumerate(together.items()):
        sketch = jax.tree.map(lambda x, i=i: x[i], state)
        assert sketch.mean.dtype == np.float32
        assert verdict({"loss": sketch}, floor=0.0).name == truth, name


@pytest.mark.parametrize(
    ("y", "truth"),
    [
        ([], "too early to say"),
        ([3.0], "too early to say"),
        ([3.0] * 9, "too early to say"),
        ([3.0] * 10, "stagnating"),
        ([1.0, float("nan")], "diverging"),
        ([1.0] * 20 + [float("inf")], "diverging"),
        ([1.0, 1e2, 1e5, 1e9, 1e14], "diverging"),
        (list(1 + 0.2 * noise(20)), "too early to say"),
        (list(1 + 0.2 * noise(100)), "stagnating"),
        (list(1e300 * 1.5 ** np.arange(20.0)), "diverging"),
        ([5.0] * 30 + [float("nan")] + [5 * 0.8**i for i in range(60)], "converged"),
    ],
)
def test_edges(y: list[float], truth: str) -> None:
    assert verdict({"loss": y}, floor=0.0).name == truth


def test_an_accuracy_is_better_the_higher_it_is() -> None:
    t = np.arange(100)
    assert verdict({"test_accuracy": 0.98 - 0.88 * 0.9**t}).name == "converged"
    assert verdict({"test_accuracy": 98 - 88 * 0.9**t}).name == "converged"
    assert verdict({"test_accuracy": 0.5 - 0.4 * 0.9**t}).name == "stagnating"
    assert verdict({"test_accuracy": 0.9 - 0.8 * 0.97**t}).name == "converging"
    assert verdict({"auc": 0.98 - 0.88 * 0.9**t}, loss="auc", higher_is_better=True).name == (
        "converged"
    )


def test_negative_losses_without_a_floor() -> None:
    t = np.arange(200)
    assert verdict({"loss": -7 + 0.95**t}).name == "converged"
    assert verdict({"loss": -7 + 0.99**t}).name == "converging"
    assert verdict({"loss": -7 + 1.05**t}).name == "diverging"


def test_without_a_floor_other_evidence_tells_a_saddle_from_a_minimum() -> None:
    t = np.arange(100)
    loss, cosine = 2 + 0.7**t, np.ones(100)
    at_rest = {"loss": loss, "step_norm": 0.7**t, "step_cosine": cosine}
    leaving = {"loss": loss, "step_norm": 0.7**t + 1e-6 * 1.05**t, "step_cosine": cosine}
    assert verdict(at_rest).name == "converged"
    found = verdict(leaving)
    assert found.name == "stagnating" and "saddle" in found.cause
    assert verdict({"loss": 2.3 - 0.001 * (1 - 0.9**t)}).name == "stagnating"


def test_the_test_loss_is_judged_where_there_is_enough_of_it() -> None:
    t = np.arange(60)
    train, test = 0.9**t, 1 + 0.5**t
    every, seldom = list(test), [v if i % 10 == 0 else None for i, v in enumerate(test)]
    assert verdict({"train_loss": train, "test_loss": every}, floor=0.0).evidence["first"] >= 2
    found = verdict({"train_loss": train, "test_loss": seldom}, floor=0.0)
    assert found.evidence["end"] < 0.1


def test_a_train_loss_below_the_floor_asks_the_test_loss() -> None:
    t = np.arange(40)
    series = {"train_loss": 0.5 * 0.7**t, "test_loss": [None] * 40}
    for i in range(0, 40, 5):
        series["test_loss"][i] = 1 + 0.95**i
    assert verdict(series, floor=1.0).name == "converging"
    for i in range(0, 40, 5):
        series["test_loss"][i] = 1.6 + 0.4 * 0.5**i
    assert verdict(series, floor=1.0).name == "stagnating"


@pytest.mark.parametrize(
    ("series", "facts", "cause"),
    [
        ({"loss": 2.0 ** np.arange(30)}, {}, "rate is too high"),
        (
            {"loss": 2.0 ** np.arange(30), "step_cosine": np.full(30, 0.9)},
            {"momentum": 0.99},
            "momentum",
        ),
        (
            {"loss": 1 + 0.5 * (-1.0) ** np.arange(40), "step_cosine": np.full(40, -1.0)},
            {},
            "rate is too high",
        ),
        (
            {
                "loss": 1 + 0.5 * np.sin(np.arange(80) / 3),
                "step_cosine": np.full(80, 0.95),
            },
            {"momentum": 0.95},
            "momentum",
        ),
        (
            {
                "loss": np.linspace(1, 0.99, 60),
                "step_norm": np.full(60, 1e-4),
                "step_cosine": np.full(60, 1.0),
            },
            {},
            "rate is too low",
        ),
        (
            {
                "loss": 0.5 + 0.1 * noise(80),
                "step_norm": np.full(80, 0.1),
                "step_cosine": np.zeros(80),
            },
            {},
            "noise",
        ),
        (
            {"loss": 0.4 + 0.6 * 0.7 ** np.arange(80), "step_norm": 0.7 ** np.arange(80)},
            {"local_steps": 50},
            "local steps",
        ),
        (
            {
                "loss": 0.4 + 0.6 * 0.7 ** np.arange(80),
                "step_norm": 0.7 ** np.arange(80),
                "client_accuracy_p10": np.full(80, 0.1),
                "client_accuracy_p90": np.full(80, 0.95),
            },
            {"local_steps": 50},
            "concept shift",
        ),
        (
            {
                "train_loss": 0.9 ** np.arange(80),
                "test_loss": 0.5 + np.abs(np.arange(80) - 20) / 100,
            },
            {},
            "overfitting",
        ),
        ({"loss": 0.8 ** np.arange(80)}, {}, "optimum"),
        ({"loss": 0.97 ** np.arange(40)}, {}, "too few rounds"),
    ],
)
def test_causes(series: dict, facts: dict, cause: str) -> None:
    found = verdict(series, floor=0.0, facts=facts)
    assert cause in found.cause, found


def test_a_verdict_is_ready_for_json() -> None:
    table = verdict({"loss": [1.0] * 50}).as_dict()
    assert json.loads(json.dumps(table, allow_nan=False))["name"] in NAMES
    assert table["evidence"]["floor"] is None
    assert set(table) == {f for f in Verdict.__dataclass_fields__}


def test_what_cannot_be_judged_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="train_loss, loss"):
        verdict({"speed": [1.0, 2.0]})
    with pytest.raises(InputError, match="must be one of: loss"):
        verdict({"loss": [1.0]}, loss="lost")


def labelled(seed: int) -> list[tuple[str, np.ndarray]]:
    """Gradient descent and heavy ball on quadratics, with truths by construction."""
    rng = np.random.default_rng(seed)
    rounds, d = int(rng.choice([60, 120, 300])), 10
    a = np.geomspace(1, 1 / 30, d)
    x0 = rng.normal(size=d)

    def course(rate: float, momentum: float, sigma: float = 0.0) -> np.ndarray:
        x, before, out = x0.copy(), x0.copy(), []
        for _ in range(rounds):
            out.append(0.5 * np.sum(a * x * x))
            step = -rate * (a * x + sigma * np.sqrt(a) * rng.normal(size=d))
            x, before = x + step + momentum * (x - before), x
        return np.asarray(out)

    e0 = 0.5 * np.sum(a * x0 * x0)
    damp = 1 - 0.3 / rounds  # amplitude of x: the loss's swings fade by exp(-0.3) in half a run
    return [
        ("diverging", course(2.1 + rng.uniform(0, 0.5), 0.0)),
        ("stagnating", course(10 ** rng.uniform(-6, -4.5), 0.0)),
        ("converged", course(60 / rounds * rng.uniform(0.9, 1.0) * 1.9, 0.0)[:rounds]),
        ("oscillating", _wave(rounds, damp, rng)),
        ("diverging", _wave(rounds, 1 + 4 / rounds, rng)),
        ("stagnating", course(0.5, 0.0, np.sqrt(8 * e0 / d))),
        ("converged", course(1.0, 0.5, 0.02)),
    ]


def _wave(rounds: int, modulus: float, rng: np.random.Generator) -> np.ndarray:
    """Heavy ball on one coordinate with complex roots of the given modulus."""
    momentum, period = modulus**2, rng.uniform(8, 16)
    rate = 1 + momentum - 2 * modulus * np.cos(2 * np.pi / period)
    x, before, out = 1.0, 1.0, []
    for _ in range(rounds):
        out.append(0.5 * x * x)
        x, before = x - rate * x + momentum * (x - before), x
    return np.asarray(out)


def test_a_labelled_suite_of_quadratics() -> None:
    runs = [run for seed in range(12) for run in labelled(seed)]
    right = [verdict({"loss": y}, floor=0.0).name == truth for truth, y in runs]
    assert np.mean(right) >= 0.95, [t for (t, _), ok in zip(runs, right, strict=True) if not ok]
