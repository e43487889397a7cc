"""Clients whose local model is a part of the global one."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, Param, server_rate, weighting

_AT = "fedjax_sim.algorithms."

_HETEROFL = Paper(
    "diao2021heterofl",
    "HeteroFL: Computation and Communication Efficient Federated Learning for "
    "Heterogeneous Clients",
    "Diao, Enmao and Ding, Jie and Tarokh, Vahid",
    "International Conference on Learning Representations (ICLR)",
    2021,
    "2010.01264",
)
_FEDROLEX = Paper(
    "alam2022fedrolex",
    "FedRolex: Model-Heterogeneous Federated Learning with Rolling Sub-Model Extraction",
    "Alam, Samiul and Liu, Luyang and Yan, Ming and Zhang, Mi",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2022,
    "2212.01548",
)
_FJORD = Paper(
    "horvath2021fjord",
    "FjORD: Fair and Accurate Federated Learning under heterogeneous targets with Ordered Dropout",
    "Horv{\\'a}th, Samuel and Laskaridis, Stefanos and Almeida, Mario and Leontiadis, Ilias and "
    "Venieris, Stylianos I. and Lane, Nicholas D.",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2021,
    "2102.13451",
)
_DEPTHFL = Paper(
    "kim2023depthfl",
    "DepthFL: Depthwise Federated Learning for Heterogeneous Clients",
    "Kim, Minjae and Yu, Sangyoon and Kim, Suhyun and Moon, Soo-Mook",
    "International Conference on Learning Representations (ICLR)",
    2023,
    url="https://openreview.net/forum?id=pf8RIZTMU58",
)
_LORA = Paper(
    "hu2021lora",
    "LoRA: Low-Rank Adaptation of Large Language Models",
    "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and "
    "Wang, Shean and Wang, Lu and Chen, Weizhu",
    "arXiv preprint",
    2021,
    "2106.09685",
)

_TIERS = {"tiers": Param(5, "levels of clients, the first of full width", low=1, whole=True)}
_FORM = {
    "form": Param(
        "sliced", "small arrays by size of part, or the whole masked", choices=("sliced", "masked")
    )
}

_COVERED = (
    r"x_c \leftarrow x_c - \rho\,\frac{\sum_{i \ni c} w_i (x_c - y_{i,c})}{\sum_{i \ni c} w_i}"
)

ENTRIES: dict[str, Entry] = {
    "heterofl": Entry(
        _AT + "heterofl:heterofl",
        "clients train the first units of every width; coordinates averaged over their holders",
        _TIERS
        | {
            "assign": Param(
                "fixed", "a client's level, or one drawn a round", choices=("fixed", "dynamic")
            )
        }
        | _FORM
        | {
            "labels": Param("own", "mask outputs of labels not had", choices=("own", "all")),
            "scaler": Param(
                "off", "divide hidden layers by the ratio in training", choices=("on", "off")
            ),
        }
        | server_rate(1.0)
        | weighting("uniform"),
        _HETEROFL,
        ("local steps", "device heterogeneity", "sub-models"),
        equation=_COVERED + r",\quad i \ni c \iff c < \lceil r_i n \rceil",
        cost="products and uplink fall with r^2; carries 4/3 of the work; 2 P for coverage",
    ),
    "fedrolex": Entry(
        _AT + "fedrolex:fedrolex",
        "as HeteroFL, with a window of units that moves on each round",
        _TIERS | _FORM | server_rate(1.0) | weighting("examples"),
        _FEDROLEX,
        ("local steps", "device heterogeneity", "sub-models"),
        equation=_COVERED + r",\quad i \ni c \iff (c - t) \bmod n < \lceil r_i n \rceil",
        cost="as HeteroFL, and 2 P copied a client to roll its part into place",
    ),
    "fjord": Entry(
        _AT + "fjord:fjord",
        "ordered dropout: each local step trains a width drawn up to the client's own",
        _TIERS
        | _FORM
        | {"distill": Param("off", "the widest part teaches the drawn one", choices=("on", "off"))}
        | server_rate(1.0)
        | weighting("examples"),
        _FJORD,
        ("local steps", "device heterogeneity", "sub-models", "distillation"),
        equation=r"y_i \leftarrow y_i - \eta\,\nabla f_i(y_i^{(p)}),\quad "
        r"p \sim U\{p_1, \dots, p_i\}",
        cost="products of the drawn widths, an optimizer step on P; with distillation the "
        "widest's too",
    ),
    "depthfl": Entry(
        _AT + "depthfl:depthfl",
        "clients train the first blocks of a model with exits, which teach one another",
        {
            "distill": Param(1.0, "a, what exits learn from one another", low=0),
            "warmup": Param(0, "rounds in which a grows", low=0, whole=True),
        }
        | server_rate(1.0)
        | weighting("examples"),
        _DEPTHFL,
        ("local steps", "device heterogeneity", "sub-models", "distillation"),
        model={"name": "mlp_exits"},
        equation=r"f_i = \sum_{k \le d_i} \mathrm{CE}_k + \tfrac{a}{d_i - 1} "
        r"\sum_k \sum_{j \ne k} \mathrm{KL}(p_j \,\|\, p_k)",
        cost="the products of the first blocks and their exits; 2 P for coverage",
    ),
    "lora": Entry(
        _AT + "lora:lora",
        "low-rank factors beside frozen kernels; only the factors travel",
        {
            "rank": Param(8, "r, of the factors", low=1, whole=True),
            "alpha": Param(4.0, "scale of the factors, divided by r", above=0),
        }
        | weighting("examples"),
        _LORA,
        ("local steps", "low rank", "communication"),
        server=True,
        equation=r"W = W_0 + \tfrac{\alpha}{r} A B,\quad "
        r"(A, B) \leftarrow (A, B) - \sum_i w_i \Delta_i",
        cost="r (rows + columns) numbers a kernel up",
    ),
}
