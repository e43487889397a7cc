"""A model in two parts: one is everyone's, the other each client's own."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, Param, weighting

_AT = "fedjax_sim.algorithms."
_WORDS = ("head", "body", "norms", "all", "none")  # core.parts.WORDS, whose import starts JAX

_FEDPER = Paper(
    "arivazhagan2019federated",
    "Federated Learning with Personalization Layers",
    "Arivazhagan, Manoj Ghuhan and Aggarwal, Vinay and Singh, Aaditya Kumar and Choudhary, Sunav",
    "arXiv preprint",
    2019,
    "1912.00818",
)
_LG_FEDAVG = Paper(
    "liang2020think",
    "Think Locally, Act Globally: Federated Learning with Local and Global Representations",
    "Liang, Paul Pu and Liu, Terrance and Ziyin, Liu and Allen, Nicholas B. and "
    "Auerbach, Randy P. and Brent, David and Salakhutdinov, Ruslan and Morency, Louis-Philippe",
    "arXiv preprint",
    2020,
    "2001.01523",
)
_FEDREP = Paper(
    "collins2021exploiting",
    "Exploiting Shared Representations for Personalized Federated Learning",
    "Collins, Liam and Hassani, Hamed and Mokhtari, Aryan and Shakkottai, Sanjay",
    "International Conference on Machine Learning (ICML)",
    2021,
    "2102.07078",
)
_FEDBN = Paper(
    "li2021fedbn",
    "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization",
    "Li, Xiaoxiao and Jiang, Meirui and Zhang, Xiaofei and Kamp, Michael and Dou, Qi",
    "International Conference on Learning Representations (ICLR)",
    2021,
    "2102.07623",
)
_FEDBABU = Paper(
    "oh2022fedbabu",
    "FedBABU: Toward Enhanced Representation for Federated Image Classification",
    "Oh, Jaehoon and Kim, Sangmook and Yun, Se-Young",
    "International Conference on Learning Representations (ICLR)",
    2022,
    "2106.06042",
)
_FEDROD = Paper(
    "chen2022bridging",
    "On Bridging Generic and Personalized Federated Learning for Image Classification",
    "Chen, Hong-You and Chao, Wei-Lun",
    "International Conference on Learning Representations (ICLR)",
    2022,
    "2107.00778",
)


def _personal(default: str, doc: str) -> dict[str, Param]:
    """The parameter that says which part is meant."""
    return {"personal": Param(default, doc, choices=_WORDS, forms=("re:PATTERN",))}


_KEPT = "what clients keep: last layer, all but it, normalisations, or names by pattern"

ENTRIES: dict[str, Entry] = {
    "fedper": Entry(
        _AT + "fedper:fedper",
        "everyone trains all, the body is averaged, each client keeps its head",
        _personal("head", _KEPT) | weighting("examples"),
        _FEDPER,
        ("personal", "client state", "local steps"),
        server=True,
        equation=r"(b_i, h_i) \leftarrow (b, h_i) - \eta \sum_k \nabla f_i(b_i^k, h_i^k), \quad "
        r"b \leftarrow \sum_i \frac{n_i}{n} b_i",
        cost="no further pass; a row holds the head; only the body goes down and up",
    ),
    "lg_fedavg": Entry(
        _AT + "lg_fedavg:lg_fedavg",
        "everyone trains all, the head is averaged, each client keeps its body",
        _personal("body", _KEPT) | weighting("examples"),
        _LG_FEDAVG,
        ("personal", "client state", "local steps"),
        server=True,
        equation=r"(b_i, h_i) \leftarrow (b_i, h) - \eta \sum_k \nabla f_i(b_i^k, h_i^k), \quad "
        r"h \leftarrow \sum_i \frac{n_i}{n} h_i",
        cost="no further pass; a row holds the body; only the head goes down and up",
    ),
    "fedrep": Entry(
        _AT + "fedrep:fedrep",
        "own head first with the body held, then the body with the head held; heads stay",
        _personal("head", _KEPT)
        | {"head_epochs": Param(1, "epochs for the head", low=1, whole=True)}
        | weighting("uniform"),
        _FEDREP,
        ("personal", "client state", "local steps"),
        server=True,
        equation=r"h_i \leftarrow h_i - \eta \sum_k \nabla_h f_i(b, h_i^k), \quad "
        r"b \leftarrow \frac{1}{|S|} \sum_i \Big(b - \eta \sum_k \nabla_b f_i(b_i^k, h_i)\Big)",
        cost="`head_epochs` further passes; two models in a lane; a row holds the head; "
        "only the body goes down and up",
    ),
    "fedbabu": Entry(
        _AT + "fedbabu:fedbabu",
        "averages bodies under one random head that nobody moves; fine-tunes to evaluate",
        _personal("head", "what is not trained: last layer, all but it, or names by pattern")
        | {
            "tune_epochs": Param(5, "epochs of fine-tuning at evaluation", low=0, whole=True),
            "tune_scale": Param(0.1, "length of its steps beside those of training", above=0),
        }
        | weighting("examples"),
        _FEDBABU,
        ("personal", "local steps"),
        server=True,
        equation=r"b \leftarrow \sum_i \frac{n_i}{n} \Big(b - \eta \sum_k \nabla_b f_i(b_i^k, "
        r"h_0)\Big), \quad \text{used: } \mathrm{tune}_i(b, h_0)",
        cost="no further pass, `tune_epochs` passes a client in an evaluation; no row",
    ),
    "fedbn": Entry(
        _AT + "fedbn:fedbn",
        "everyone trains all; normalisations stay with their clients; needs a model with them",
        _personal("norms", _KEPT) | weighting("examples"),
        _FEDBN,
        ("personal", "client state", "local steps", "feature shift"),
        server=True,
        equation=r"w \leftarrow \sum_i \frac{n_i}{n} w_i, \quad "
        r"\beta_i = (\text{scale, bias, mean, variance})_i \text{ stays}",
        cost="no further pass; a row holds 2 to 4 numbers a channel; the rest goes down and up",
    ),
    "fedrod": Entry(
        _AT + "fedrod:fedrod",
        "generic model on a balanced loss, and an own head that is added to its logits",
        _personal("head", "what is doubled: last layer, all but it, or names by pattern")
        | weighting("examples"),
        _FEDROD,
        ("personal", "client state", "local steps", "label shift"),
        server=True,
        equation=r"(b, h) \leftarrow \text{FedAvg on } \ell(g + \log n_y, y), \quad "
        r"p_i \leftarrow p_i - \eta \nabla_{p_i} \ell(\bar g + p_i, y), \quad g + p_i",
        cost="a further forward pass over the body at most; a row holds a head; "
        "the whole generic model goes down and up",
    ),
}
