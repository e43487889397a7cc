"""Personal models made of other clients' models, of one's own past, or of remembered examples."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, Param, weighting

_AT = "fedjax_sim.algorithms."
_WORDS = ("head", "body", "norms", "all", "none")  # core.parts.WORDS, whose import starts JAX

_FEDAMP = Paper(
    "huang2021personalized",
    "Personalized Cross-Silo Federated Learning on Non-IID Data",
    "Huang, Yutao and Chu, Lingyang and Zhou, Zirui and Wang, Lanjun and Liu, Jiangchuan and "
    "Pei, Jian and Zhang, Yong",
    "AAAI Conference on Artificial Intelligence",
    2021,
    "2007.03797",
)
_FEDFOMO = Paper(
    "zhang2021personalized",
    "Personalized Federated Learning with First Order Model Optimization",
    "Zhang, Michael and Sapra, Karan and Fidler, Sanja and Yeung, Serena and Alvarez, Jose M.",
    "International Conference on Learning Representations (ICLR)",
    2021,
    "2012.08565",
)
_FEDALA = Paper(
    "zhang2023fedala",
    "FedALA: Adaptive Local Aggregation for Personalized Federated Learning",
    "Zhang, Jianqing and Hua, Yang and Wang, Hao and Song, Tao and Xue, Zhengui and Ma, Ruhui and "
    "Guan, Haibing",
    "AAAI Conference on Artificial Intelligence",
    2023,
    "2212.01197",
)
_FEDPHP = Paper(
    "li2021fedphp",
    "FedPHP: Federated Personalization with Inherited Private Models",
    "Li, Xin-Chun and Zhan, De-Chuan and Shao, Yunfeng and Li, Bingshuai and Song, Shaoming",
    "European Conference on Machine Learning (ECML PKDD)",
    2021,
    doi="10.1007/978-3-030-86486-6_36",
)
_KNN_PER = Paper(
    "marfoq2022personalized",
    "Personalized Federated Learning through Local Memorization",
    "Marfoq, Othmane and Neglia, Giovanni and Kameni, Laetitia and Vidal, Richard",
    "International Conference on Machine Learning (ICML)",
    2022,
    "2111.09360",
)

ENTRIES: dict[str, Entry] = {
    "fedamp": Entry(
        _AT + "fedamp:fedamp",
        "each client trains from, and tied to, a mixture of the models that are like its own",
        {
            "penalty": Param(1.0, "lambda: how strongly models are tied to their mixture", low=0),
            "alpha": Param(
                10.0, "weight of others by distance; the tie is lambda / alpha", above=0
            ),
            "sigma": Param(10.0, "width of distances, or sharpness of cosines", above=0),
            "attention": Param(
                "distance", "how models are compared", choices=("distance", "cosine")
            ),
            "own_share": Param(0.5, "a client's own weight, by cosine", low=0, high=1),
        },
        _FEDAMP,
        ("local steps", "personal", "server state", "proximal"),
        equation=r"u_i = \sum_j \xi_{ij} w_j, \quad w_i \approx \arg\min_w f_i(w) + "
        r"\tfrac{\lambda}{2\alpha} \|w - u_i\|^2",
        cost="N P at the server, K P for reports; K N P multiply-adds a round; FedAvg's traffic",
    ),
    "fedfomo": Entry(
        _AT + "fedfomo:fedfomo",
        "clients ask for others' models and begin with those that do better on held-out examples",
        {
            "models": Param(10, "M: models that a client asks for", low=1, whole=True),
            "validation": Param(0.2, "share of a client's examples held out", above=0, below=1),
            "epsilon": Param(0.3, "chance that a model asked for is a random one", low=0, high=1),
        },
        _FEDFOMO,
        ("local steps", "personal", "server state"),
        equation=r"\theta_i \leftarrow \theta_i + \sum_j \tfrac{[w_j]_+}{\sum_m [w_m]_+} "
        r"(\theta_j - \theta_i), \quad w_j = \tfrac{L_i(\theta_i) - L_i(\theta_j)}"
        r"{\|\theta_j - \theta_i\|}",
        cost="1 + M passes over held-out examples; N P + N^2 at the server; M P down, P up",
    ),
    "fedala": Entry(
        _AT + "fedala:fedala",
        "clients learn, number by number, how much of the shared model's last layers to take",
        {
            "blended": Param(
                "head",
                "what is blended: last layer, all but it, or names by pattern",
                choices=_WORDS,
                forms=("re:PATTERN",),
            ),
            "weight_rate": Param(1.0, "learning rate of the weights; 0 keeps them at 1", low=0),
            "weight_epochs": Param(1, "passes that learn the weights", low=1, whole=True),
            "share": Param(0.8, "share of each pass that is made", above=0, high=1),
        }
        | weighting("examples"),
        _FEDALA,
        ("local steps", "personal", "client state"),
        server=True,
        equation=r"y_i^0 = y_i + W_i \odot (x - y_i), \quad W_i \leftarrow \mathrm{clip}(W_i - "
        r"\eta_W \nabla f_i(y_i^0) \odot (x - y_i), 0, 1)",
        cost="weight_epochs share more passes; rows of P and the blended leaves; FedAvg's traffic",
    ),
    "fedphp": Entry(
        _AT + "fedphp:fedphp",
        "a running mean of a client's past models is its own, and teaches the next one",
        {
            "strength": Param(0.1, "lambda: the teacher's part of the loss", low=0, high=1),
            "temperature": Param(1.0, "of the outputs that are taught", above=0),
            "momentum": Param(0.9, "of the running mean, once it has grown", low=0, high=1),
            "visits": Param(10.0, "rounds of a client until it has grown", above=0),
        }
        | weighting("examples"),
        _FEDPHP,
        ("local steps", "personal", "client state", "distillation"),
        server=True,
        equation=r"p_i \leftarrow \mu_i p_i + (1 - \mu_i) y_i, \quad y_i \approx \arg\min_y "
        r"(1 - \lambda) f_i(y) + \lambda\, \mathrm{KL}(p_i \,\|\, y)",
        cost="a forward pass of p_i a local step; rows of P; FedAvg's traffic",
    ),
    "knn_per": Entry(
        _AT + "knn_per:knn_per",
        "FedAvg; a client predicts by the model and by its own nearest training examples",
        {
            "neighbours": Param(10, "k: examples that vote", low=1, whole=True),
            "capacity": Param(1000, "examples remembered at most", low=1, whole=True),
            "memory_share": Param(0.3, "lambda: how much the vote counts", low=0, high=1),
            "width": Param(1.0, "of the kernel over distances", above=0),
            "features": Param(
                "features", "what examples are compared by", choices=("features", "outputs")
            ),
        }
        | weighting("examples"),
        _KNN_PER,
        ("local steps", "personal", "memory"),
        server=True,
        equation=r"p_i(y \mid z) = \lambda\, \mathrm{kNN}_i(y \mid \phi(z)) + "
        r"(1 - \lambda)\, \mathrm{softmax}_y f(z)",
        cost="FedAvg's; a forward pass over up to `capacity` examples a client in an evaluation",
    ),
}
