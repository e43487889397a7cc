"""Which way to shuffle inside the local loop, and to sample a cohort from a large population?

    python benchmarks/shuffle.py [--platform cpu|gpu] [--repeats 51]

Compared, each drawing batches of 10 positions in a `fori_loop` of 1000 steps:

- swap-or-not: `fedjax_sim.data.batching.shuffled`, any size (traced), a fixed cost;
- feistel: a balanced Feistel network on the next even number of bits that walks its cycle with
  `while_loop` until it lands inside, any size (traced);
- permutation, each batch: `jax.random.permutation` evaluated anew for every batch, size static;
  on lanes, whose clients differ in size, one sort of random bits padded to the largest client;
- permutation, each epoch: the same kept in the carry and drawn anew when an epoch begins.

Then 10,000 of 1,000,000 drawn without replacement, against `jax.random.choice`; and how evenly
the two bijections spread over all permutations of 3 to 6 positions (chi-square per degree of
freedom: 1 is what a fair shuffle gives). Timings are medians of interleaved repeats after a
warm-up, compilation apart. Writes benchmarks/results/shuffle.json.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

STEPS, BATCH, LANES = 1000, 10, 16
POPULATION, COHORT = 1_000_000, 10_000
FEISTEL_ROUNDS = 8  # fewer are uneven on sizes 3 and 4; more do not help sizes 5 and 6
FAIRNESS_SIZES, FAIRNESS_KEYS = (3, 4, 5, 6), 240_000
BUDGET_S = 5.0  # a variant whose repeats have taken longer than this is not repeated again
RESULT = Path(__file__).parent / "results" / "shuffle.json"


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--repeats", type=int, default=51)
    return parser.parse_args()


OPTIONS = arguments()
os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[OPTIONS.platform]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from fedjax_sim.data.batching import shuffled  # noqa: E402


def mix(h: jax.Array) -> jax.Array:
    """MurmurHash3's finalizer, the hash that `shuffled` uses too."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def feistel(words: jax.Array, epoch: jax.Array, position: jax.Array, size: jax.Array) -> jax.Array:
    """`shuffled` by a Feistel network with cycle walking; all entries of a call walk together."""
    size = jnp.asarray(size).astype(jnp.uint32)
    bits = 32 - jax.lax.clz(jnp.maximum(size - 1, 1))
    half = (bits + 1) // 2
    mask = (jnp.uint32(1) << half) - 1
    seed = mix(words[0] ^ mix(jnp.asarray(epoch).astype(jnp.uint32)))

    def once(x: jax.Array) -> jax.Array:
        left, right = x >> half, x & mask
        for r in range(FEISTEL_ROUNDS):
            key = mix(seed + jnp.uint32((r * 0x9E3779B9) & 0xFFFFFFFF) + words[1])
            left, right = right, left ^ (mix(right * jnp.uint32(0x9E3779B1) ^ key) & mask)
        return (left << half) | right

    def walk(x: jax.Array) -> jax.Array:
        return jnp.where(x >= size, once(x), x)

    first = once(jnp.asarray(position).astype(jnp.uint32))
    return jax.lax.while_loop(lambda x: jnp.any(x >= size), walk, first).astype(jnp.int32)


Loop = Callable[[jax.Array, jax.Array], jax.Array]


def where_in_epoch(t: jax.Array, size: Any) -> tuple[jax.Array, jax.Array]:
    """`(epoch, positions [BATCH])` of step `t`; BATCH divides every size used here."""
    per_epoch = size // BATCH
    epoch = t // per_epoch
    return epoch, (t - epoch * per_epoch) * BATCH + jnp.arange(BATCH)


def loop_by_bijection(draw: Callable[..., jax.Array]) -> Loop:
    """1000 batches by an index bijection; the sum keeps every drawn index alive."""

    def run(key: jax.Array, size: jax.Array) -> jax.Array:
        words = jax.random.key_data(key)

        def step(t: jax.Array, total: jax.Array) -> jax.Array:
            epoch, position = where_in_epoch(t, size)
            return total + draw(words, epoch, position, size) * jnp.arange(1, BATCH + 1)

        return jax.lax.fori_loop(0, STEPS, step, jnp.zeros(BATCH, jnp.int32))

    return run


def padded_permutation(key: jax.Array, size: jax.Array, longest: int) -> jax.Array:
    """A permutation of `0 .. size-1`, `size` traced, padded to int32 `[longest]`: one sort."""
    bits = jax.random.bits(key, (longest,)) >> 1
    last = jnp.arange(longest) >= size
    return jnp.argsort(jnp.where(last, jnp.uint32(0xFFFFFFFF), bits)).astype(jnp.int32)


def loop_by_permutation(longest: int, *, each_batch: bool, ragged: bool) -> Loop:
    """1000 batches cut from a permutation that is drawn anew each batch or each epoch."""

    def run(key: jax.Array, size: jax.Array) -> jax.Array:
        def order(epoch: jax.Array) -> jax.Array:
            of_epoch = jax.random.fold_in(key, epoch)
            if ragged:
                return padded_permutation(of_epoch, size, longest)
            return jax.random.permutation(of_epoch, longest)

        def step(t: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            table, total = carry
            epoch, position = where_in_epoch(t, size)
            if each_batch:
                table = order(epoch)
            else:
                table = jax.lax.cond(position[0] == 0, lambda: order(epoch), lambda: table)
            return table, total + table[position] * jnp.arange(1, BATCH + 1)

        start = (jnp.zeros(longest, jnp.int32), jnp.zeros(BATCH, jnp.int32))
        return jax.lax.fori_loop(0, STEPS, step, start)[1]

    return run


Timings = dict[str, dict[str, float]]


def measured(variants: dict[str, tuple[Any, tuple[Any, ...]]]) -> Timings:
    """Time `{name: (jitted function, arguments)}`, the first variant being the base of ratios.

    Returns:
      `{name: {seconds, ratio, repeats, compile_seconds}}`: the median, and the median of the
      ratios to the base taken within one interleaved repeat.
    """
    compiled, compiling = {}, {}
    for name, (function, given) in variants.items():
        began = time.perf_counter()
        compiled[name] = function.lower(*given).compile()
        compiling[name] = time.perf_counter() - began
        jax.block_until_ready(compiled[name](*given))
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(OPTIONS.repeats):
        for name, (_function, given) in variants.items():
            if sum(seconds[name]) > BUDGET_S:
                continue
            began = time.perf_counter()
            jax.block_until_ready(compiled[name](*given))
            seconds[name].append(time.perf_counter() - began)
    base = seconds[next(iter(variants))]
    return {
        name: {
            "seconds": statistics.median(taken),
            "ratio": statistics.median(t / b for t, b in zip(taken, base, strict=False)),
            "repeats": len(taken),
            "compile_seconds": compiling[name],
        }
        for name, taken in seconds.items()
    }


def loops(size: int, lanes: int) -> Timings:
    """Time 1000 batches of clients with `size` examples on `lanes` lanes."""
    programs = {
        "swap-or-not": loop_by_bijection(shuffled),
        "feistel": loop_by_bijection(feistel),
        "permutation, each batch": loop_by_permutation(size, each_batch=True, ragged=lanes > 1),
        "permutation, each epoch": loop_by_permutation(size, each_batch=False, ragged=lanes > 1),
    }
    # Lanes hold clients of unequal sizes; a permutation pads to the largest.
    spread = np.linspace(size / 2, size, lanes) if lanes > 1 else np.array([size])
    sizes = jnp.asarray(spread // BATCH * BATCH, jnp.int32)
    keys = jax.random.split(jax.random.key(0), lanes)

    given = (keys[0], sizes[0]) if lanes == 1 else (keys, sizes)
    return measured(
        {
            name: (jax.jit(program if lanes == 1 else jax.vmap(program)), given)
            for name, program in programs.items()
        }
    )


def cohort() -> Timings:
    """Time a draw of 10,000 distinct clients of 1,000,000."""
    key, size = jax.random.key(1), jnp.int32(POPULATION)

    def by(draw: Callable[..., jax.Array]) -> tuple[Any, tuple[Any, ...]]:
        def run(key: jax.Array, size: jax.Array) -> jax.Array:
            return draw(jax.random.key_data(key), 0, jnp.arange(COHORT), size)

        return jax.jit(run), (key, size)

    choice = jax.jit(lambda key: jax.random.choice(key, POPULATION, (COHORT,), replace=False))
    variants = {
        "swap-or-not": by(shuffled),
        "feistel": by(feistel),
        "jax.random.choice": (choice, (key,)),
    }
    timings = measured(variants)
    for name, (function, given) in variants.items():
        ids = np.asarray(function(*given))
        if len(np.unique(ids)) != COHORT or ids.min() < 0 or ids.max() >= POPULATION:
            raise SystemExit(f"{name} drew a client twice or one that does not exist")
    return timings


def unevenness(draw: Callable[..., jax.Array], size: int) -> float:
    """Chi-square per degree of freedom over all permutations of `size`; 1 is fair."""
    keys = jax.random.split(jax.random.key(2), FAIRNESS_KEYS)

    def one(key: jax.Array) -> jax.Array:
        order = draw(jax.random.key_data(key), 0, jnp.arange(size), jnp.int32(size))
        return jnp.sum(order * size ** jnp.arange(size))

    codes = np.asarray(jax.jit(jax.vmap(one))(keys))
    every = [
        sum(p * size**i for i, p in enumerate(order))
        for order in itertools.permutations(range(size))
    ]
    seen = np.array([(codes == code).sum() for code in every])
    if seen.sum() != len(codes):
        raise SystemExit("a draw was not a permutation")
    expected = len(codes) / len(every)
    return float(((seen - expected) ** 2 / expected).sum() / (len(every) - 1))


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "platform": OPTIONS.platform,
        "load_average_at_start": os.getloadavg()[0],
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def main() -> None:
    """Measure, print a table, write the record."""
    bijections = {"swap-or-not": shuffled, "feistel": feistel}
    record: dict[str, Any] = {**machine(), "feistel_rounds": FEISTEL_ROUNDS, "timings": {}}
    for size, lanes in ((50, 1), (5000, 1), (50, LANES), (5000, LANES)):
        record["timings"][f"{STEPS} batches of {BATCH}, size {size}, lanes {lanes}"] = loops(
            size, lanes
        )
    record["timings"][f"{COHORT:,} of {POPULATION:,}"] = cohort()
    record["unevenness"] = {
        f"size {size}": {name: unevenness(draw, size) for name, draw in bijections.items()}
        for size in FAIRNESS_SIZES
    }
    for question, timings in record["timings"].items():
        print(question)
        for name, timing in timings.items():
            ms, ratio = timing["seconds"] * 1e3, timing["ratio"]
            compiling = timing["compile_seconds"] * 1e3
            print(f"  {name:26}{ms:10.2f} ms {ratio:8.2f} x ours   compile {compiling:6.0f} ms")
    print("chi-square per degree of freedom over all permutations of a size")
    for size, values in record["unevenness"].items():
        print(f"  {size:8}", "".join(f"{n:>14} {v:8.2f}" for n, v in values.items()))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
