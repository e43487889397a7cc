"""Server rules on the mean decrease d, in NumPy, with the conventions of optax.

Where Reddi et al. 2020 (algorithm 2) and optax differ, optax's form is written here:
- Adam and Yogi: moments start at 0 (Yogi's at 1e-6) and are divided by 1 - b^t; the paper
  starts v at tau^2 and corrects nothing.
- Adagrad: `d / sqrt(v + tau)`, v starting at `initial`; the paper has `d / (sqrt(v) + tau)`.
"""

import numpy as np


class Momentum:
    """Hsu et al. 2019: v <- beta v + d, x <- x - rate v."""

    def __init__(self, rate, beta):
        self.rate, self.beta, self.v = rate, beta, 0.0

    def step(self, d):
        self.v = self.beta * self.v + d
        return -self.rate * self.v


class Adam:
    """m, v exponential means of d and d^2, bias-corrected; x <- x - rate m / (sqrt(v) + tau)."""

    start = 0.0

    def __init__(self, rate, b1, b2, tau):
        self.rate, self.b1, self.b2, self.tau = rate, b1, b2, tau
        self.m, self.v, self.t = self.start, self.start, 0

    def second(self, d):
        return self.b2 * self.v + (1 - self.b2) * d**2

    def step(self, d):
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * d
        self.v = self.second(d)
        m, v = self.m / (1 - self.b1**self.t), self.v / (1 - self.b2**self.t)
        return -self.rate * m / (np.sqrt(v) + self.tau)


class Yogi(Adam):
    """Adam with v <- v - (1 - b2) d^2 sign(v - d^2)."""

    start = 1e-6

    def second(self, d):
        return self.v - (1 - self.b2) * d**2 * np.sign(self.v - d**2)


class Adagrad:
    """v <- v + d^2; x <- x - rate d / sqrt(v + tau)."""

    def __init__(self, rate, initial, tau):
        self.rate, self.tau, self.v = rate, tau, initial

    def step(self, d):
        self.v = self.v + d**2
        return -self.rate * d / np.sqrt(self.v + self.tau)
