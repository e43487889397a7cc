"""One model for each group of clients."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, Param, weighting

_AT = "fedjax_sim.algorithms."

_CFL = Paper(
    "sattler2021clustered",
    "Clustered Federated Learning: Model-Agnostic Distributed Multitask Optimization Under "
    "Privacy Constraints",
    'Sattler, Felix and M{\\"u}ller, Klaus-Robert and Samek, Wojciech',
    "IEEE Transactions on Neural Networks and Learning Systems",
    2021,
    "1910.01991",
)
_FEDEM = Paper(
    "marfoq2021federated",
    "Federated Multi-Task Learning under a Mixture of Distributions",
    "Marfoq, Othmane and Neglia, Giovanni and Bellet, Aur{\\'e}lien and Kameni, Laetitia and "
    "Vidal, Richard",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2021,
    "2108.10252",
)
_IFCA = Paper(
    "ghosh2020efficient",
    "An Efficient Framework for Clustered Federated Learning",
    "Ghosh, Avishek and Chung, Jichan and Yin, Dong and Ramchandran, Kannan",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2020,
    "2006.04088",
)
_HYPCLUSTER = Paper(
    "mansour2020three",
    "Three Approaches for Personalization with Applications to Federated Learning",
    "Mansour, Yishay and Mohri, Mehryar and Ro, Jae and Suresh, Ananda Theertha",
    "arXiv preprint",
    2020,
    "2002.10619",
)
_FEDGROUP = Paper(
    "duan2021fedgroup",
    "FedGroup: Efficient Federated Learning via Decomposed Similarity-Based Clustering",
    "Duan, Moming and Liu, Duo and Ji, Xinyuan and Liu, Renping and Liang, Liang and "
    "Chen, Xianzhang and Tan, Yujuan",
    "IEEE International Symposium on Parallel and Distributed Processing with Applications (ISPA)",
    2021,
    "2010.06870",
)
_HIERFAVG = Paper(
    "liu2020client",
    "Client-Edge-Cloud Hierarchical Federated Learning",
    "Liu, Lumin and Zhang, Jun and Song, S. H. and Letaief, Khaled B.",
    "IEEE International Conference on Communications (ICC)",
    2020,
    "1905.06641",
)
_GROUPS = {"groups": Param(2, "groups, each with a model", low=1, whole=True)}
_STARTS = {
    "start": Param("fresh", "the first models", choices=("fresh", "perturbed", "same")),
    "spread": Param(0.1, "standard deviation of a perturbed start", low=0),
}

ENTRIES: dict[str, Entry] = {
    "cfl": Entry(
        _AT + "cfl:cfl",
        "cuts a group at rest in two where its clients pull different ways, K x P memory",
        {
            "groups": Param(4, "the most groups there may be", low=1, whole=True),
            "eps1": Param(0.2, "mean update below which a group is at rest", low=0),
            "eps2": Param(0.8, "client update above which the client is not", low=0),
            "gamma_max": Param(0.7, "how far a client may be from its true group", low=0, below=1),
            "gap": Param(-2.0, "least cosine within minus largest across; -2 asks for none"),
            "norms": Param(
                "relative",
                "to the group's longest update and to the longest of round 1, or absolute",
                choices=("absolute", "relative"),
            ),
        }
        | weighting("examples"),
        _CFL,
        ("local steps", "groups"),
        server=True,
        equation=r"\text{split a group where } |\bar u| < \epsilon_1,\ \max_i |u_i| > \epsilon_2",
        cost="as fedavg; K x P and M models at the server",
    ),
    "fedem": Entry(
        _AT + "fedem:fedem",
        "every client a mixture of M shared models, by EM; client metrics only",
        {
            "groups": Param(3, "components", low=1, whole=True),
            "start": Param("fresh", "the first components", choices=("fresh", "perturbed", "same")),
            "spread": Param(0.1, "standard deviation of a perturbed start", low=0),
            "outputs": Param(
                "auto",
                "what is mixed: class probabilities, or the outputs as they are",
                choices=("auto", "probabilities", "values"),
            ),
        }
        | weighting("examples"),
        _FEDEM,
        ("local steps", "groups", "client state"),
        server=True,
        equation=r"y_i = \sum_m \pi_{im}\, h_m,\quad \pi_{im} \leftarrow \frac{1}{n_i} \sum_j "
        r"q_{ijm}",
        cost="M forward passes and M gradients; M P down and up; M numbers a client kept",
    ),
    "ifca": Entry(
        _AT + "ifca:ifca",
        "M models; each client trains the one of lowest loss on its data; client metrics only",
        _GROUPS | _STARTS | weighting("uniform"),
        _IFCA,
        ("local steps", "groups", "client state"),
        server=True,
        equation=r"m_i = \arg\min_m F_i(x_m),\quad x_m \leftarrow \text{mean of its clients}",
        cost="M forward passes more than fedavg; M P down",
    ),
    "ifca_gradient": Entry(
        _AT + "ifca:ifca_gradient",
        "ifca with one exact gradient a client; [client] is the server's optimizer",
        _GROUPS | _STARTS | weighting("uniform"),
        _IFCA,
        ("gradient", "groups", "client state"),
        batches=False,
        schedule=False,
        equation=r"m_i = \arg\min_m F_i(x_m),\quad x_m \leftarrow x_m - \eta\, \overline{\nabla "
        r"F_i}(x_m)",
        cost="M forward passes and one gradient; M P down",
    ),
    "hypcluster": Entry(
        _AT + "hypcluster:hypcluster",
        "ifca by examples, after rounds of random groups; client metrics only",
        _GROUPS
        | {"warmup": Param(1, "rounds of random groups", low=0, whole=True)}
        | _STARTS
        | weighting("examples"),
        _HYPCLUSTER,
        ("local steps", "groups", "client state"),
        server=True,
        equation=r"m_i = \arg\min_m F_i(x_m),\quad x_m \leftarrow \sum_{i: m_i = m} p_i\, y_i",
        cost="M forward passes more than fedavg; M P down",
    ),
    "grouped": Entry(
        _AT + "grouped:grouped",
        "one model for each group of clients with alike first updates; client metrics only",
        _GROUPS
        | {
            "warmup": Param(1, "rounds before clients are grouped", low=1, whole=True),
            "every": Param(
                0, "rounds from one regrouping to the next; 0: never", low=0, whole=True
            ),
            "sketch": Param(256, "numbers that an update is compared by", low=1, whole=True),
            "separation": Param(
                0.3, "silhouette below which all stay together; -1: never", low=-1, high=1
            ),
        }
        | weighting("examples"),
        _FEDGROUP,
        ("local steps", "groups"),
        server=True,
        equation=r"x_m \leftarrow \sum_{i \in m} p_i\, y_i,\quad \text{groups by k-means of first "
        r"updates}",
        cost="as fedavg; M models and N sketches at the server",
    ),
    "hierfavg": Entry(
        _AT + "hierfavg:hierfavg",
        "edge servers average each round, the cloud averages them at times",
        {
            "edges": Param(2, "edge servers; client i is at edge i % edges", low=1, whole=True),
            "edge_rounds": Param(2, "rounds from one meeting to the next", low=1, whole=True),
        }
        | weighting("examples"),
        _HIERFAVG,
        ("local steps", "groups", "hierarchy"),
        equation=r"x_e \leftarrow \sum_{i \in e} p_i\, y_i,\quad x \leftarrow \sum_e p_e x_e\ "
        r"\text{at times}",
        cost="as fedavg; a model an edge",
    ),
}
