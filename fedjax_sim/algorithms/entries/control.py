"""Corrections against client drift."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, Param, server_rate, weighting

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

_FEDDYN = Paper(
    "acar2021federated",
    "Federated Learning Based on Dynamic Regularization",
    "Acar, Durmus Alp Emre and Zhao, Yue and Matas, Ramon and Mattina, Matthew and "
    "Whatmough, Paul and Saligrama, Venkatesh",
    "International Conference on Learning Representations (ICLR)",
    2021,
    "2111.04263",
)
_FEDADMM = Paper(
    "gong2022fedadmm",
    "FedADMM: A Robust Federated Deep Learning Framework with Adaptivity to System Heterogeneity",
    "Gong, Yonghai and Li, Yichuan and Freris, Nikolaos M.",
    "IEEE International Conference on Data Engineering (ICDE)",
    2022,
    "2203.15104",
)
_FEDSPLIT = Paper(
    "pathak2020fedsplit",
    "FedSplit: An Algorithmic Framework for Fast Federated Optimization",
    "Pathak, Reese and Wainwright, Martin J.",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2020,
    "2005.05238",
)
_FEDLIN = Paper(
    "mitra2021linear",
    "Linear Convergence in Federated Learning: Tackling Client Heterogeneity and Sparse Gradients",
    "Mitra, Aritra and Jaafar, Rayana and Pappas, George J. and Hassani, Hamed",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2021,
    "2102.07053",
)
_MIME = Paper(
    "karimireddy2020mime",
    "Mime: Mimicking Centralized Stochastic Algorithms in Federated Learning",
    "Karimireddy, Sai Praneeth and Jaggi, Martin and Kale, Satyen and Mohri, Mehryar and "
    "Reddi, Sashank J. and Stich, Sebastian U. and Suresh, Ananda Theertha",
    "arXiv preprint",
    2020,
    "2008.03606",
)
_DRIFT = ("local steps", "heterogeneity")
_KEPT = (*_DRIFT, "client state")

ENTRIES: dict[str, Entry] = {
    "scaffold": Entry(
        _AT + "scaffold:scaffold",
        "control variates against client drift; keeps a row a client",
        server_rate(1.0)
        | {
            "option": Param(
                "steps",
                "the new c_i: mean gradient of the steps (II), or exact gradient before them (I)",
                choices=("gradient", "steps"),
            )
        }
        | weighting("uniform"),
        _SCAFFOLD,
        _KEPT,
        client_rate=0.1,  # at the bundled 0.2, five epochs and a tenth of the clients, it diverges
        equation=r"y_i \leftarrow y_i - \eta\,(g_i(y_i) - c_i + c)",
        cost="P a client kept; 2 P down and up; option I: one more pass of gradients",
    ),
    "feddyn": Entry(
        _AT + "feddyn:feddyn",
        "a regulariser of each client's own gradient; keeps a row a client",
        {"alpha": Param(0.1, "strength of the tie to the global model", above=0)}
        | weighting("uniform"),
        _FEDDYN,
        _KEPT,
        equation=r"y_i \approx \arg\min_y f_i(y) - \langle h_i, y\rangle"
        r" + \tfrac{\alpha}{2}\|y - x\|^2,\quad h_i \leftarrow h_i - \alpha (y_i - x)",
        cost="P a client and P at the server kept; traffic as FedAvg",
    ),
    "fedadmm": Entry(
        _AT + "fedadmm:fedadmm",
        "consensus by multipliers; keeps two rows a client",
        {"rho": Param(0.1, "strength of the tie to the global model", above=0)}
        | server_rate(1.0)
        | {
            "start": Param(
                "global", "local training starts from this model", choices=("global", "own")
            ),
            "mean_over": Param(
                "population",
                "mean over all, of whom the absent are at rest, or over those present",
                choices=("cohort", "population"),
            ),
        }
        | weighting("uniform"),
        _FEDADMM,
        _KEPT,
        equation=r"w_i \approx \arg\min_w f_i(w) + \langle y_i, w - x\rangle"
        r" + \tfrac{\rho}{2}\|w - x\|^2,\quad y_i \leftarrow y_i + \rho (w_i - x)",
        cost="2 P a client kept; traffic as FedAvg",
    ),
    "fedsplit": Entry(
        _AT + "fedsplit:fedsplit",
        "Peaceman-Rachford splitting; keeps a row a client",
        {"strength": Param(0.1, "one over the proximal step", above=0)} | weighting("uniform"),
        _FEDSPLIT,
        _KEPT,
        equation=r"z_i \leftarrow z_i + 2\,(\mathrm{prox}_i(2x - z_i) - x),\quad"
        r" x = \tfrac{1}{N}\sum_i z_i",
        cost="P a client kept; traffic as FedAvg",
    ),
    "fedlin": Entry(
        _AT + "fedlin:fedlin",
        "local steps along the global gradient; measures and trains in turn, round by round",
        server_rate(1.0) | weighting("uniform"),
        _FEDLIN,
        (*_DRIFT, "two exchanges"),
        equation=r"y_i \leftarrow y_i - \eta\,(g_i(y_i) - g_i(x) + \tfrac{1}{K}\sum_j g_j(x))",
        cost="two rounds a step of the model, a pass of gradients in each; 2 P down, P up",
    ),
    "mime": Entry(
        _AT + "mime:mime",
        "the server's optimizer at the clients, variance reduced; measures and trains in turn",
        weighting("uniform"),
        _MIME,
        (*_DRIFT, "two exchanges", "adaptive"),
        schedule=False,
        equation=r"y_i \leftarrow y_i - \eta\,U(g_i(y_i; b) - g_i(x; b) + c, s),\quad"
        r" s \leftarrow V(c, s)",
        cost="two rounds a step of the model, two gradients a local step; 2 P and s down, P up",
    ),
    "mimelite": Entry(
        _AT + "mime:mimelite",
        "the server's optimizer (momentum, adam) at the clients, its statistics held there",
        weighting("uniform"),
        _MIME,
        (*_DRIFT, "adaptive"),
        schedule=False,
        equation=r"y_i \leftarrow y_i - \eta\,U(g_i(y_i; b), s),\quad"
        r" s \leftarrow V(\tfrac{1}{K}\sum_i g_i(x), s)",
        cost="one more pass of gradients; P and s down, 2 P up",
    ),
}
