"""Statistics of convergence in plain NumPy loops, from their definitions."""

import itertools
import math

import numpy as np
from scipy import stats


def to_target(axis, values, target, higher):
    """Where the running best meets the target: straight, or geometric for positive losses."""
    best = None
    for i in range(len(values)):
        v = values[i]
        before = best
        if best is None or (v > best if higher else v < best):
            best = v
        if (best >= target) if higher else (best <= target):
            if before is None:
                return axis[0]
            if not higher and best > 0 and target > 0:
                share = (math.log(before) - math.log(target)) / (math.log(before) - math.log(best))
            else:
                share = (target - before) / (best - before)
            return axis[i - 1] + share * (axis[i] - axis[i - 1])
    return math.inf


def last_part(values, parts):
    n = len(values)
    size = max(1, -(-n // parts))
    return values[n - size :]


def end_level(values):
    tail = last_part(values, 10)
    return sum(tail) / len(tail)


def largest_drop(values, higher):
    first = len(values) - len(last_part(values, 3))
    worst = -math.inf
    for i in range(first, len(values)):
        seen = values[: i + 1]
        worst = max(worst, max(seen) - values[i] if higher else values[i] - min(seen))
    return worst


def variance(values):
    tail = last_part(values, 3)
    mean = sum(tail) / len(tail)
    return sum((v - mean) ** 2 for v in tail) / (len(tail) - 1)


def spread(values):
    """Residual standard deviation of a least-squares line."""
    tail = np.asarray(last_part(values, 3))
    at = np.arange(len(tail))
    line = np.polyval(np.polyfit(at, tail, 1), at)
    return math.sqrt(np.sum((tail - line) ** 2) / (len(tail) - 2))


def sign_changes(values):
    tail = last_part(values, 3)
    steps = [b - a for a, b in itertools.pairwise(tail) if b != a]
    turns = [a * b < 0 for a, b in itertools.pairwise(steps)]
    return sum(turns) / len(turns) if turns else 0.0


def wilson(k, n, level):
    """Roots in p of (k/n - p)^2 = z^2 p (1 - p) / n."""
    z2, p = stats.norm.ppf(0.5 + level / 2) ** 2, k / n
    roots = np.roots([1 + z2 / n, -2 * p - z2 / n, p * p])
    return tuple(sorted(np.clip(np.real(roots), 0, 1)))


def paired_t(a, b, level):
    """By scipy's paired test."""
    found = stats.ttest_rel(b, a).confidence_interval(level)
    return found.low, found.high


def welch(a, b, level):
    """By scipy's test of unequal variances."""
    found = stats.ttest_ind(b, a, equal_var=False).confidence_interval(level)
    return found.low, found.high


def newcombe(table, level):
    """Method 10 for paired shares p1 - p2, from the counts e, f, g, h of his Table I.

    e: both; f: the first alone; g: the second alone; h: neither.
    """
    e, f, g, h = table
    n = e + f + g + h
    p1, p2 = (e + f) / n, (e + g) / n
    l1, u1 = wilson(e + f, n, level)
    l2, u2 = wilson(e + g, n, level)
    product = (e + f) * (g + h) * (e + g) * (f + h)
    top = e * h - f * g
    if product == 0:
        phi = 0.0
    else:
        if top > n / 2:
            top -= n / 2
        elif top >= 0:
            top = 0
        phi = top / math.sqrt(product)
    d = p1 - p2
    below = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    above = math.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    return d - below, d + above


def bca(pairs, level, draws, seed):
    """Bias-corrected and accelerated bootstrap of a mean of paired values."""
    r = np.random.default_rng(seed)
    n, mean = len(pairs), np.mean(pairs)
    means = np.array([np.mean(pairs[r.integers(0, n, n)]) for _ in range(draws)])
    z0 = stats.norm.ppf(np.mean(means < mean) + 0.5 * np.mean(means == mean))
    left_out = np.array([np.mean(np.delete(pairs, i)) for i in range(n)])
    gap = left_out.mean() - left_out
    a = np.sum(gap**3) / (6 * np.sum(gap**2) ** 1.5)
    z = z0 + stats.norm.ppf([0.5 - level / 2, 0.5 + level / 2])
    return tuple(np.quantile(means, stats.norm.cdf(z0 + z / (1 - a * z))))


def restricted(times, horizon):
    """Geometric mean of times cut at a horizon."""
    logs = [math.log(min(t, horizon)) for t in times]
    return math.exp(sum(logs) / len(logs))
