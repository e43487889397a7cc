"""Momentum over rounds, and other losses than the task's."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, Param, server_rate, weighting

_AT = "fedjax_sim.algorithms."

_FEDCM = Paper(
    "xu2021fedcm",
    "FedCM: Federated Learning with Client-level Momentum",
    "Xu, Jing and Wang, Sen and Wang, Liwei and Yao, Andrew Chi-Chih",
    "arXiv preprint",
    2021,
    "2106.10874",
)
_FEDACG = Paper(
    "kim2024communication",
    "Communication-Efficient Federated Learning with Accelerated Client Gradient",
    "Kim, Geeho and Kim, Jinkyu and Han, Bohyung",
    "Conference on Computer Vision and Pattern Recognition (CVPR)",
    2024,
    "2201.03172",
)
_FEDEXP = Paper(
    "jhunjhunwala2023fedexp",
    "FedExP: Speeding Up Federated Averaging via Extrapolation",
    "Jhunjhunwala, Divyansh and Wang, Shiqiang and Joshi, Gauri",
    "International Conference on Learning Representations (ICLR)",
    2023,
    "2301.09604",
)
_FEDLC = Paper(
    "zhang2022federated",
    "Federated Learning with Label Distribution Skew via Logits Calibration",
    "Zhang, Jie and Li, Zhiqi and Li, Bo and Xu, Jianghe and Wu, Shuang and Ding, Shouhong and "
    "Wu, Chao",
    "International Conference on Machine Learning (ICML)",
    2022,
    "2209.00189",
)
_FEDNTD = Paper(
    "lee2022preservation",
    "Preservation of the Global Knowledge by Not-True Distillation in Federated Learning",
    "Lee, Gihun and Jeong, Minchan and Shin, Yongjin and Bae, Sangmin and Yun, Se-Young",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2022,
    "2106.03097",
)
_MOON = Paper(
    "li2021model",
    "Model-Contrastive Federated Learning",
    "Li, Qinbin and He, Bingsheng and Song, Dawn",
    "Conference on Computer Vision and Pattern Recognition (CVPR)",
    2021,
    "2103.16257",
)

ENTRIES: dict[str, Entry] = {
    "fedcm": Entry(
        _AT + "fedcm:fedcm",
        "every local step leans on the direction of the last round",
        {"alpha": Param(0.1, "share of the fresh gradient; 1 is fedavg", above=0, high=1)}
        | server_rate(1.0)
        | weighting("uniform"),
        _FEDCM,
        ("local steps", "heterogeneity", "momentum"),
        equation=r"v = \alpha \nabla f_i(y) + (1-\alpha) m,\; y \leftarrow y - \eta v;\quad "
        r"m \leftarrow \tfrac{1}{|S|} \sum_{i \in S} (x - y_i) / (\eta K)",
        cost="no row; the momentum travels down with the model, 2 P bytes down and P up",
    ),
    "fedacg": Entry(
        _AT + "fedacg:fedacg",
        "clients start from, and are tied to, where the server's momentum is about to be",
        {
            "momentum": Param(0.85, "of the server; 0 is fedprox", low=0, below=1),
            "beta": Param(0.01, "strength of the tie", low=0),
        }
        | weighting("uniform"),
        _FEDACG,
        ("local steps", "heterogeneity", "momentum"),
        equation=r"z = x - \lambda m,\; y_i \approx \arg\min f_i(y) + \tfrac{\beta}{2}|y - z|^2;"
        r"\quad m \leftarrow \lambda m + \tfrac{1}{|S|} \sum_{i \in S} (z - y_i),\; "
        r"x \leftarrow x - m",
        cost="as fedavg: no row, P bytes each way",
    ),
    "fedexp": Entry(
        _AT + "fedexp:fedexp",
        "the server's rate grows with the disagreement of its clients",
        {"epsilon": Param(0.001, "keeps the step short where the mean update is small", low=0)}
        | weighting("uniform"),
        _FEDEXP,
        ("local steps", "server optimizer", "adaptive"),
        server=True,
        equation=r"x \leftarrow x - \max\!\left(1, \frac{\sum_{i \in S} |d_i|^2}"
        r"{2 |S| (|\bar d|^2 + \epsilon)}\right) \bar d,\quad d_i = x - y_i",
        cost="as fedavg: no row, P bytes each way",
    ),
    "fedlc": Entry(
        _AT + "fedlc:fedlc",
        "logits are calibrated by how often a client has seen each label",
        {"tau": Param(1.0, "strength; 0 is fedavg", low=0)} | weighting("examples"),
        _FEDLC,
        ("local steps", "heterogeneity", "label skew"),
        server=True,
        equation=r"-\log \frac{e^{f_y - \tau n_y^{-1/4}}}{\sum_c e^{f_c - \tau n_c^{-1/4}}}",
        cost="as fedavg, and a count of the labels at a client's start",
    ),
    "fedntd": Entry(
        _AT + "fedntd:fedntd",
        "what the global model says of labels that are not true is kept",
        {
            "beta": Param(1.0, "strength; 0 is fedavg", low=0),
            "tau": Param(1.0, "temperature", above=0),
        }
        | weighting("examples"),
        _FEDNTD,
        ("local steps", "heterogeneity", "label skew", "distillation"),
        server=True,
        equation=r"\ell(f, y) + \beta \tau^2 \sum_{c \ne y} \tilde q^g_c \log"
        r"(\tilde q^g_c / \tilde q_c)",
        cost="one forward pass of the received model more in every step; no row, P bytes each way",
    ),
    "moon": Entry(
        _AT + "moon:moon",
        "representations are drawn to the global model's and away from the client's last",
        {
            "mu": Param(1.0, "strength; 0 is fedavg", low=0),
            "tau": Param(0.5, "temperature", above=0),
            "representation": Param(
                "features",
                "what the last layer is given, or outputs",
                choices=("features", "outputs"),
            ),
        }
        | weighting("examples"),
        _MOON,
        ("local steps", "heterogeneity", "client state", "contrastive"),
        server=True,
        equation=r"\ell(f, y) - \mu \log \frac{e^{\cos(z, z^g)/\tau}}"
        r"{e^{\cos(z, z^g)/\tau} + e^{\cos(z, z^{prev})/\tau}}",
        cost="two forward passes more in every step; a row of one model; P bytes each way",
    ),
}
