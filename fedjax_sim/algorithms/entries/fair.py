"""Algorithms that are fair to clients or groups."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, Param, weighting

_AT = "fedjax_sim.algorithms."

_QFFL = Paper(
    "li2020fair",
    "Fair Resource Allocation in Federated Learning",
    "Li, Tian and Sanjabi, Maziar and Beirami, Ahmad and Smith, Virginia",
    "International Conference on Learning Representations (ICLR)",
    2020,
    "1905.10497",
)
_TERM = Paper(
    "li2021tilted",
    "Tilted Empirical Risk Minimization",
    "Li, Tian and Beirami, Ahmad and Sanjabi, Maziar and Smith, Virginia",
    "International Conference on Learning Representations (ICLR)",
    2021,
    "2007.01162",
)
_AFL = Paper(
    "mohri2019agnostic",
    "Agnostic Federated Learning",
    "Mohri, Mehryar and Sivek, Gary and Suresh, Ananda Theertha",
    "International Conference on Machine Learning (ICML)",
    2019,
    "1902.00146",
)
_FEDMGDA = Paper(
    "hu2022federated",
    "Federated Learning Meets Multi-Objective Optimization",
    "Hu, Zeou and Shaloudegi, Kiarash and Zhang, Guojun and Yu, Yaoliang",
    "IEEE Transactions on Network Science and Engineering",
    2022,
    "2006.11489",
)

ENTRIES: dict[str, Entry] = {
    "qfedavg": Entry(
        _AT + "qfedavg:qfedavg",
        "clients with a higher loss count more, by its q-th power",
        {"q": Param(1.0, "0 is uniform fedavg; larger is fairer", low=0)} | weighting("uniform"),
        _QFFL,
        ("local steps", "fairness"),
        server=True,
        from_client={"rate": "learning_rate"},
        equation=r"x \leftarrow x - \frac{\sum_i F_i^q\, \Delta_i}{\sum_i (q F_i^{q-1} "
        r"|\Delta_i|^2 + L F_i^q)}",
        cost="one forward pass more than fedavg",
    ),
    "term": Entry(
        _AT + "term:term",
        "clients with a higher loss count more, by exp(t loss)",
        {"t": Param(1.0, "tilt: 0 is uniform fedavg; below 0 outliers count less")}
        | weighting("uniform"),
        _TERM,
        ("local steps", "fairness", "robust"),
        server=True,
        equation=r"p_i \propto w_i\, e^{t F_i(x)}",
        cost="one forward pass more than fedavg",
    ),
    "afl": Entry(
        _AT + "afl:afl",
        "does best on the worst mixture of clients, or of the groups planted in the data",
        {"lambda_rate": Param(0.1, "of the domains' weights", low=0)} | weighting("examples"),
        _AFL,
        ("local steps", "fairness", "groups"),
        server=True,
        from_data={"groups": "group"},
        equation=r"\min_x \max_{\lambda \in \Delta} \sum_d \lambda_d F_d(x)",
        cost="one forward pass more than fedavg; a number a domain at the server",
    ),
    "fedmgda": Entry(
        _AT + "fedmgda:fedmgda",
        "shortest mixture of the updates' directions, near their weights, K x P memory",
        {"epsilon": Param(0.1, "how far a part may be from its weight", low=0, high=1)}
        | weighting("uniform"),
        _FEDMGDA,
        ("local steps", "fairness"),
        server=True,
        equation=r"d = \arg\min_{\lambda} \Big|\sum_i \lambda_i u_i / |u_i|\Big|,\quad "
        r"|\lambda_i - p_i| \le \epsilon",
        cost="as fedavg; K x P at the server",
    ),
}
