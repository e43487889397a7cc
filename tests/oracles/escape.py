"""Servers that leave saddles, round by round in NumPy float64, written from their definitions.

A model is one flat vector. What is random comes in as lists of draws, one entry a round.
"""

import numpy as np


def perturbed(x, update, rounds, noise, *, threshold, wait):
    """Jin et al. 2017, algorithm 2, on the update that made the point.

    Args:
      x: start `[P]`.
      update: `(x, round) -> mean decrease [P]`, or None where nobody reported.
      rounds: how many.
      noise: `noise[r]` is the point of the ball that round r would add.
      threshold: of the update's norm.
      wait: rounds without noise after one with it.

    Returns:
      Models after each round `[rounds, P]` and the rounds that were perturbed.
    """
    path, shaken = [], []
    last = -np.inf
    heard = 0
    for r in range(rounds):
        d = update(x, r)
        if d is not None:
            x = x - d
            if np.linalg.norm(d) <= threshold and heard - last > wait:
                x, last = x + noise[r], heard
                shaken.append(r)
            heard += 1
        path.append(x)
    return np.array(path), shaken


class NegativeCurvature:
    """Descent of a fixed rate, and steps along a Ritz vector that one product a round improves.

    The Ritz vector is the minimiser of the Rayleigh quotient over span{v, p, residual}, found by
    Gram-Schmidt and a small eigenproblem; p is the part of the new vector that the old one lacks.
    """

    def __init__(self, x, rate, *, threshold, tolerance, lipschitz, probes):
        self.x, self.rate = x, rate
        self.threshold, self.tolerance, self.probes = threshold, tolerance, probes
        self.m = lipschitz
        self.v = self.hv = self.p = self.hp = self.q = None
        self.calm, self.trial, self.leaps = 0, None, 0

    def round(self, gradient, product, draw, coin):
        """One round: `gradient(x)`, `product(x, direction)`, a unit draw, a sign."""
        g = gradient(self.x)
        if self.v is None:
            self.x = self.x - self.rate * g
            self._restart(draw)
            self.calm = self.calm + 1 if np.linalg.norm(g) <= self.threshold else 0
            return
        h = product(self.x, self.q)
        paid = self.trial is not None
        if paid and self._rejected(g, h, coin):
            return
        self._absorb(h)
        ray = self.v @ self.hv
        residual = np.linalg.norm(self.hv - ray * self.v)
        small = np.linalg.norm(g) <= self.threshold
        trusted = self.calm >= self.age
        exact = residual <= np.sqrt(np.finfo(float).eps) * np.linalg.norm(self.hv)
        ended = exact or self.age + 1 >= self.probes
        settled = ended or residual <= 0.1 * abs(ray)
        if (small or paid) and trusted and settled and ray < -self.tolerance:
            self._leap(ray, g @ self.v, coin)
            return
        self.x = self.x - self.rate * g
        self.calm = self.calm + 1 if small else 0
        if small and trusted and ended:
            self._restart(draw)
        elif (small and not trusted) or (not small and (self.age > 0 or ended)):
            self._restart(self.v)
        else:
            self._ask_residual()

    def _restart(self, v):
        self.v, self.q, self.age = v, v, 0
        self.p = self.hp = None

    def _absorb(self, h):
        if self.age == 0:
            self.hv = h
            return
        vectors, products = [self.v, self.q], [self.hv, h]
        if self.p is not None:
            vectors.append(self.p)
            products.append(self.hp)
        basis, image = np.array(vectors), np.array(products)
        small = basis @ image.T
        c = np.linalg.eigh((small + small.T) / 2)[1][:, 0]
        c = c if c[0] >= 0 else -c
        new, hnew = c @ basis, c @ image
        # What is new in it: without its part along the old vector, made orthogonal to the new.
        rest = c.copy()
        rest[0] = 0
        rest = rest - (rest @ c) * c
        size = np.linalg.norm(rest)
        if size > 0:
            self.p, self.hp = rest @ basis / size, rest @ image / size
        length = np.linalg.norm(new)
        self.v, self.hv = new / length, hnew / length

    def _ask_residual(self):
        r = self.hv - (self.v @ self.hv) * self.v
        if self.p is not None:
            r = r - (self.p @ r) * self.p
        self.q = r / np.linalg.norm(r)
        self.age += 1

    def _leap(self, ray, slope, coin, fresh=True):
        depth = -ray
        s = (depth + np.sqrt(depth**2 + 2 * self.m * abs(slope))) / self.m
        lost = abs(slope) <= np.sqrt(np.finfo(float).eps) * depth * s
        step = s * (coin if lost else -np.sign(slope))
        self.trial = (step, slope, ray, self.x)
        self.x = self.x + step * self.v
        self.calm, self.leaps = 0, self.leaps + fresh
        self.q, self.age = self.v, 0
        self.p = self.hp = None

    def _rejected(self, g, h, coin):
        """Whether the loss rose, by a cubic Hermite interpolation of slopes; if so, retry."""
        step, slope, ray, origin = self.trial
        self.trial = None
        after, bend = g @ self.v, h @ self.v
        # Integral of the cubic with end values slope, after and end derivatives ray, bend.
        nodes, weights = np.polynomial.legendre.leggauss(4)
        t = (nodes + 1) / 2
        cubic = (
            (2 * t**3 - 3 * t**2 + 1) * slope
            + (t**3 - 2 * t**2 + t) * step * ray
            + (-2 * t**3 + 3 * t**2) * after
            + (t**3 - t**2) * step * bend
        )
        rise = step * np.sum(weights * cubic) / 2
        measured = np.linalg.norm(h - self.hv) / abs(step)
        if rise <= 0:
            self.m = max(measured, self.m / 2)
            return False
        self.m = max(measured, 2 * self.m)
        self.x = origin
        self._leap(ray, slope, coin, fresh=False)
        return True


def deep_linear(w1, w2, x, y):
    """Gradient of the mean of `|w2' w1' x - y|^2 / 2` over examples, `(g1, g2)`."""
    error = x @ w1 @ w2 - y
    return x.T @ error @ w2.T / len(x), (x @ w1).T @ error / len(x)


def deep_linear_product(w1, w2, d1, d2, x, y):
    """Its Hessian times the direction `(d1, d2)`."""
    error = x @ w1 @ w2 - y
    change = x @ (d1 @ w2 + w1 @ d2)
    first = x.T @ (change @ w2.T + error @ d2.T)
    second = (x @ d1).T @ error + (x @ w1).T @ change
    return first / len(x), second / len(x)
