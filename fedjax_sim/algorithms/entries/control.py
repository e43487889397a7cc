"""Corrections against client drift."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, server_rate, weighting

_AT = "fedjax_sim.algorithms."

_SCAFFOLD = Paper(
    "karimireddy2020scaffold",
    "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
    "Karimireddy, Sai Praneeth and Kale, Satyen and Mohri, Mehryar and Reddi, Sashank and "
    "Stich, Sebastian and Suresh, Ananda Theertha",
    "International Conference on Machine Learning (ICML)",
    2020,
    "1910.06378",
)

ENTRIES: dict[str, Entry] = {
    "scaffold": Entry(
        _AT + "scaffold:scaffold",
        "control variates against client drift; keeps a row a client",
        server_rate(1.0) | weighting("uniform"),
        _SCAFFOLD,
        ("local steps", "heterogeneity", "client state"),
    ),
}
