"""Averages, with an optimizer at the server, and the two baselines."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, Param, server_rate, weighting

_AT = "fedjax_sim.algorithms."

_FEDAVG = Paper(
    "mcmahan2017communication",
    "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    "McMahan, H. Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and "
    'Ag{\\"u}era y Arcas, Blaise',
    "Artificial Intelligence and Statistics (AISTATS)",
    2017,
    "1602.05629",
)
_FEDAVGM = Paper(
    "hsu2019measuring",
    "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
    "Hsu, Tzu-Ming Harry and Qi, Hang and Brown, Matthew",
    "NeurIPS Workshop on Federated Learning",
    2019,
    "1909.06335",
)
_FEDOPT = Paper(
    "reddi2021adaptive",
    "Adaptive Federated Optimization",
    "Reddi, Sashank J. and Charles, Zachary and Zaheer, Manzil and Garrett, Zachary and "
    "Rush, Keith and Kone{\\v{c}}n{\\'y}, Jakub and Kumar, Sanjiv and McMahan, H. Brendan",
    "International Conference on Learning Representations (ICLR)",
    2021,
    "2003.00295",
)
_FEDPROX = Paper(
    "li2020federated",
    "Federated Optimization in Heterogeneous Networks",
    "Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar and "
    "Talwalkar, Ameet and Smith, Virginia",
    "Machine Learning and Systems (MLSys)",
    2020,
    "1812.06127",
)
_FEDNOVA = Paper(
    "wang2020tackling",
    "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
    "Wang, Jianyu and Liu, Qinghua and Liang, Hao and Joshi, Gauri and Poor, H. Vincent",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2020,
    "2007.07481",
)
_MEDIAN = Paper(
    "yin2018byzantine",
    "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    "Yin, Dong and Chen, Yudong and Ramchandran, Kannan and Bartlett, Peter",
    "International Conference on Machine Learning (ICML)",
    2018,
    "1803.01498",
)
_TAU = {"tau": Param(1e-3, "degree of adaptivity: what is added to the root", above=0)}
_MOMENTS = {
    "b1": Param(0.9, "decay of the first moment", low=0, below=1),
    "b2": Param(0.99, "decay of the second moment", low=0, below=1),
}

ENTRIES: dict[str, Entry] = {
    "fedsgd": Entry(
        _AT + "fedsgd:fedsgd",
        "one exact gradient a client a round; [client] is the server's optimizer",
        weighting("examples"),
        _FEDAVG,
        ("gradient",),
        batches=False,
        schedule=False,
        equation=r"x \leftarrow x - \eta \sum_i p_i \nabla f_i(x)",
        cost="one gradient pass a round in place of local steps; no row",
    ),
    "fedavg": Entry(
        _AT + "fedavg:fedavg",
        "mean of locally trained models",
        weighting("examples"),
        _FEDAVG,
        ("local steps",),
        server=True,
        equation=r"x \leftarrow \sum_i p_i\, y_i,\quad y_i \leftarrow y_i - \eta\, g_i(y_i)",
        cost="the measure of the others: P down, P up, no row",
    ),
    "fedavgm": Entry(
        _AT + "fedavg:fedavgm",
        "fedavg with momentum at the server",
        server_rate(1.0)
        | {"server_momentum": Param(0.9, "of the server", low=0, below=1)}
        | weighting("examples"),
        _FEDAVGM,
        ("local steps", "server optimizer"),
        equation=r"m \leftarrow \beta m + \sum_i p_i (x - y_i),\quad x \leftarrow x - \eta_s m",
        cost="as fedavg; P at the server",
    ),
    "fedadam": Entry(
        _AT + "fedavg:fedadam",
        "fedavg with Adam at the server",
        server_rate(0.01) | _MOMENTS | _TAU | weighting("examples"),
        _FEDOPT,
        ("local steps", "server optimizer", "adaptive"),
        equation=r"x \leftarrow x - \eta_s\, m / (\sqrt{v} + \tau),\quad v \leftarrow b_2 v + (1 - "
        r"b_2) d^2",
        cost="as fedavg; 2 P at the server",
    ),
    "fedyogi": Entry(
        _AT + "fedavg:fedyogi",
        "fedavg with Yogi at the server",
        server_rate(0.01) | _MOMENTS | _TAU | weighting("examples"),
        _FEDOPT,
        ("local steps", "server optimizer", "adaptive"),
        equation=r"v \leftarrow v - (1 - b_2)\, \mathrm{sign}(v - d^2)\, d^2,\quad "
        r"x \leftarrow x - \eta_s\, m / (\sqrt{v} + \tau)",
        cost="as fedavg; 2 P at the server",
    ),
    "fedadagrad": Entry(
        _AT + "fedavg:fedadagrad",
        "fedavg with Adagrad at the server",
        server_rate(0.1)
        | {"initial": Param(1e-6, "second moment before the first round", low=0)}
        | _TAU
        | weighting("examples"),
        _FEDOPT,
        ("local steps", "server optimizer", "adaptive"),
        equation=r"v \leftarrow v + d^2,\quad x \leftarrow x - \eta_s\, d / (\sqrt{v} + \tau)",
        cost="as fedavg; P at the server",
    ),
    "fedprox": Entry(
        _AT + "fedprox:fedprox",
        "local training tied to the global model by mu/2 |y - x|^2",
        {"mu": Param(0.01, "strength of the tie", low=0)} | weighting("examples"),
        _FEDPROX,
        ("local steps", "heterogeneity", "stragglers"),
        equation=r"y_i \leftarrow y_i - \eta\,(g_i(y_i) + \mu (y_i - x))",
        cost="as fedavg",
    ),
    "fednova": Entry(
        _AT + "fednova:fednova",
        "averages updates per local step, so that busy clients count no more",
        weighting("examples"),
        _FEDNOVA,
        ("local steps", "heterogeneity"),
        from_client={"momentum": "momentum"},
        equation=r"x \leftarrow x - \Big(\sum_i p_i a_i\Big) \sum_i p_i (x - y_i) / a_i",
        cost="as fedavg",
    ),
    "median": Entry(
        _AT + "median:median",
        "median of every coordinate of the updates, K x P memory",
        {},
        _MEDIAN,
        ("local steps", "robust"),
        server=True,
        equation=r"x_j \leftarrow x_j - \mathrm{median}_i\,(x - y_i)_j",
        cost="as fedavg; K x P at the server",
    ),
    "centralized": Entry(
        _AT + "baselines:centralized",
        "all data in one place: the upper end of most comparisons",
        tags=("baseline",),
        equation=r"x \leftarrow x - \eta\, g(x)",
        cost="one learner with all examples; nothing travels",
    ),
    "local_only": Entry(
        _AT + "baselines:local_only",
        "every client alone: the other end; client metrics only",
        tags=("baseline", "client state"),
        equation=r"y_i \leftarrow y_i - \eta\, g_i(y_i)",
        cost="a model and an optimizer state a client kept; nothing travels",
    ),
}
