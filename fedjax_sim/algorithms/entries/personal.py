"""A model of its own for each client, made from or beside the global one."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, Param, weighting

_AT = "fedjax_sim.algorithms."
_VENUE = "Advances in Neural Information Processing Systems (NeurIPS)"

_FINE_TUNE = Paper(
    "wang2019federated",
    "Federated Evaluation of On-device Personalization",
    "Wang, Kangkang and Mathews, Rajiv and Kiddon, Chlo{\\'e} and Eichner, Hubert and "
    "Beaufays, Fran{\\c c}oise and Ramage, Daniel",
    "arXiv preprint",
    2019,
    "1910.10252",
)
_DITTO = Paper(
    "li2021ditto",
    "Ditto: Fair and Robust Federated Learning Through Personalization",
    "Li, Tian and Hu, Shengyuan and Beirami, Ahmad and Smith, Virginia",
    "International Conference on Machine Learning (ICML)",
    2021,
    "2012.04221",
)
_PFEDME = Paper(
    "dinh2020personalized",
    "Personalized Federated Learning with Moreau Envelopes",
    "Dinh, Canh T. and Tran, Nguyen H. and Nguyen, Tuan Dung",
    _VENUE,
    2020,
    "2006.08848",
)
_APFL = Paper(
    "deng2020adaptive",
    "Adaptive Personalized Federated Learning",
    "Deng, Yuyang and Kamani, Mohammad Mahdi and Mahdavi, Mehrdad",
    "arXiv preprint",
    2020,
    "2003.13461",
)
_PERFEDAVG = Paper(
    "fallah2020personalized",
    "Personalized Federated Learning with Theoretical Guarantees: A Model-Agnostic Meta-Learning "
    "Approach",
    "Fallah, Alireza and Mokhtari, Aryan and Ozdaglar, Asuman",
    _VENUE,
    2020,
    "2002.07948",
)

ENTRIES: dict[str, Entry] = {
    "fine_tune": Entry(
        _AT + "fine_tune:fine_tune",
        "FedAvg, and every client trains the global model further before it uses it",
        {
            "tune_rate": Param(0.05, "learning rate of the clients' own training", above=0),
            "tune_epochs": Param(5, "passes of the clients' own training", low=1, whole=True),
        }
        | weighting("examples"),
        _FINE_TUNE,
        ("local steps", "personal", "fine-tuning"),
        server=True,
        equation=r"\theta_i = x - \eta' \sum_k \nabla f_i(\theta_i^k), \quad \theta_i^0 = x",
        cost="FedAvg's; tune_epochs passes of every client in an evaluation; no rows",
    ),
    "ditto": Entry(
        _AT + "ditto:ditto",
        "a personal model of each client, tied to the global one, beside FedAvg",
        {"penalty": Param(1.0, "lambda: how strongly personal models are tied", low=0)}
        | weighting("examples"),
        _DITTO,
        ("local steps", "personal", "client state", "robust"),
        server=True,
        equation=r"v_i \leftarrow v_i - \eta\,(\nabla f_i(v_i) + \lambda (v_i - x))",
        cost="two gradients a local step; rows of P; FedAvg's traffic",
    ),
    "pfedme": Entry(
        _AT + "pfedme:pfedme",
        "personal models near their own optimum and a shared one, by Moreau envelopes",
        {
            "penalty": Param(1.0, "lambda: how strongly personal models are tied", above=0),
            "rate": Param(0.5, "eta: learning rate of the local copy of the shared model", above=0),
            "server_rate": Param(1.0, "beta: how far the server goes to the mean", above=0),
            "inner": Param(5, "K: steps on one batch", low=1, whole=True),
        }
        | weighting("uniform"),
        _PFEDME,
        ("local steps", "personal", "client state", "proximal"),
        equation=r"w_i \leftarrow w_i - \eta\lambda (w_i - \theta_i), \quad \theta_i \approx "
        r"\arg\min_\theta f_i(\theta) + \tfrac{\lambda}{2} \|\theta - w_i\|^2",
        cost="inner gradients a local step; rows of P; FedAvg's traffic",
    ),
    "apfl": Entry(
        _AT + "apfl:apfl",
        "each client uses a mean of the global model and its own, in a share that it finds",
        {
            "alpha": Param(0.1, "share of the own model at first", low=0, high=1),
            "alpha_rate": Param(0.1, "learning rate of the share; 0 keeps it", low=0),
        }
        | weighting("uniform"),
        _APFL,
        ("local steps", "personal", "client state"),
        server=True,
        equation=r"v_i \leftarrow v_i - \eta \alpha_i \nabla f_i(m_i), \quad "
        r"\alpha_i \leftarrow \alpha_i - \eta_\alpha \langle v_i - w_i, \nabla f_i(m_i)\rangle, "
        r"\quad m_i = \alpha_i v_i + (1 - \alpha_i) w_i",
        cost="two gradients a local step; rows of P + 1 number; FedAvg's traffic",
    ),
    "perfedavg": Entry(
        _AT + "perfedavg:perfedavg",
        "FedAvg of models that are good after one step of each client (MAML)",
        {
            "adapt_rate": Param(0.02, "alpha: rate of the step, in training and before use", low=0),
            "adapt_steps": Param(1, "steps before use, each on one batch", low=1, whole=True),
            "hessian": Param(
                "none", "how the Hessian enters", choices=("none", "exact", "difference")
            ),
            "delta": Param(1e-3, "length of the difference of gradients", above=0),
            "draws": Param(3, "batches a local step", low=1, high=3, whole=True),
        }
        | weighting("uniform"),
        _PERFEDAVG,
        ("local steps", "personal", "meta-learning"),
        server=True,
        equation=r"w \leftarrow w - \beta\,(I - \alpha \nabla^2 f_i(w))\, "
        r"\nabla f_i(w - \alpha \nabla f_i(w))",
        cost="2 gradients a local step, 4 with the Hessian; adapt_steps of every client in an "
        "evaluation; no rows",
    ),
}
