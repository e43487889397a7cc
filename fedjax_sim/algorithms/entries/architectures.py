"""Clients of unrelated architectures, which share what models say instead of models."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, Param, weighting

_AT = "fedjax_sim.algorithms."
_PUBLIC = {"public": "public"}
_CLASSES = {
    "most_classes": Param(128, "room for so many classes at the server", low=1, whole=True),
}

_FEDMD = Paper(
    "li2019fedmd",
    "FedMD: Heterogenous Federated Learning via Model Distillation",
    "Li, Daliang and Wang, Junpu",
    "NeurIPS Workshop on Federated Learning for Data Privacy and Confidentiality",
    2019,
    "1910.03581",
)
_FEDDF = Paper(
    "lin2020ensemble",
    "Ensemble Distillation for Robust Model Fusion in Federated Learning",
    "Lin, Tao and Kong, Lingjing and Stich, Sebastian U. and Jaggi, Martin",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2020,
    "2006.07242",
)
_FEDPROTO = Paper(
    "tan2021fedproto",
    "FedProto: Federated Prototype Learning across Heterogeneous Clients",
    "Tan, Yue and Long, Guodong and Liu, Lu and Zhou, Tianyi and Lu, Qinghua and Jiang, Jing and "
    "Zhang, Chengqi",
    "AAAI Conference on Artificial Intelligence, 2022; preprint of 2021",
    2021,
    "2105.00243",
)

ENTRIES: dict[str, Entry] = {
    "fedmd": Entry(
        _AT + "fedmd:fedmd",
        "clients of any architecture learn from the mean scores on public inputs",
        {
            "match": Param(
                "absolute",
                "how scores are compared",
                choices=("absolute", "squared", "divergence"),
            ),
            "digest_steps": Param(20, "steps on the public inputs, a round", low=0, whole=True),
            "digest_batch": Param(32, "public inputs a step", low=1, whole=True),
        }
        | _CLASSES
        | weighting("uniform"),
        _FEDMD,
        ("architectures", "distillation", "public data", "personal", "client state"),
        from_data=_PUBLIC,
        equation=r"w_i \leftarrow w_i - \eta \nabla D(f_i(x), \tfrac{1}{K} \sum_k f_k(x)), "
        r"\; w_i \leftarrow \mathrm{SGD}_i(w_i)",
        cost="digest steps and one pass over the public inputs; a row is a model; Q x C numbers "
        "up and down in place of the model",
    ),
    "feddf": Entry(
        _AT + "feddf:feddf",
        "averages, then teaches the average what all clients' models say of public inputs",
        {
            "architectures": Param(1, "networks of the model, as many averages", low=1, whole=True),
            "distill_rate": Param(1e-3, "learning rate of the distillation (Adam)", above=0),
            "distill_steps": Param(100, "steps of the distillation, a round", low=0, whole=True),
            "distill_batch": Param(128, "public inputs a step", low=1, whole=True),
        }
        | weighting("examples"),
        _FEDDF,
        ("architectures", "distillation", "public data", "local steps"),
        from_data=_PUBLIC,
        equation=r"w_a \leftarrow \arg\min_w \mathrm{KL}\big(\sigma(\tfrac{1}{K} \sum_k f(x; w_k))"
        r"\,\|\, \sigma(f(x; w))\big) \text{ from } \sum_{k \in a} n_k w_k / \sum_{k \in a} n_k",
        cost="distillation at the server, a pass over the public inputs a client; Q x C numbers up "
        "beside the model",
    ),
    "fedproto": Entry(
        _AT + "fedproto:fedproto",
        "clients of any architecture share the mean representations of classes",
        {
            "strength": Param(1.0, "pull towards the shared prototypes", low=0),
            "predict": Param(
                "prototypes",
                "by the nearest shared prototype, or the client's own outputs",
                choices=("prototypes", "head"),
            ),
        }
        | _CLASSES
        | {"most_features": Param(512, "room for so wide prototypes", low=1, whole=True)}
        | weighting("examples"),
        _FEDPROTO,
        ("architectures", "prototypes", "personal", "client state"),
        equation=r"\ell(w_i) + \tfrac{\lambda}{F} \|z_i(x) - C_y\|^2, \quad "
        r"C_j \leftarrow \sum_i n_{ij} C_{ij} / \sum_i n_{ij}",
        cost="a second look at the representation in each step and a pass at the end; a row is a "
        "model; C x F numbers up and down in place of the model",
    ),
}
