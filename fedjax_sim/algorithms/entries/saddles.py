"""Algorithms that leave saddles."""

from __future__ import annotations

from fedjax_sim.algorithms.entry import Entry, Paper, Param, weighting

_AT = "fedjax_sim.algorithms."

_PERTURBED = Paper(
    "jin2017escape",
    "How to Escape Saddle Points Efficiently",
    "Jin, Chi and Ge, Rong and Netrapalli, Praneeth and Kakade, Sham M. and Jordan, Michael I.",
    "International Conference on Machine Learning (ICML)",
    2017,
    "1703.00887",
)
_NEGATIVE_CURVATURE = Paper(
    "carmon2018accelerated",
    "Accelerated Methods for Nonconvex Optimization",
    "Carmon, Yair and Duchi, John C. and Hinder, Oliver and Sidford, Aaron",
    "SIAM Journal on Optimization",
    2018,
    "1611.00756",
)

ENTRIES: dict[str, Entry] = {
    "perturbed": Entry(
        _AT + "perturbed:perturbed",
        "fedavg that adds noise where its update is small, to leave saddles",
        {
            "radius": Param(1e-2, "of the ball that noise is drawn from", low=0),
            "threshold": Param(1e-3, "norm below which an update is small", low=0),
            "wait": Param(50.0, "rounds without noise after a perturbation", low=0),
        }
        | weighting("examples"),
        _PERTURBED,
        ("local steps", "saddles"),
        server=True,
        equation=r"x \leftarrow x - d + r\,\xi\ \ \text{where } |d| < \text{threshold},\quad \xi "
        r"\sim U(\text{ball})",
        cost="as fedavg",
    ),
    "negative_curvature": Entry(
        _AT + "negative_curvature:negative_curvature",
        "gradient descent that leaves saddles along negative curvature; [client] is the server's",
        {
            "threshold": Param(1e-2, "norm below which a gradient is small", low=0),
            "tolerance": Param(1e-2, "curvature above minus this counts as none", low=0),
            "lipschitz": Param(1.0, "first guess of how fast the Hessian changes", above=0),
            "probes": Param(20.0, "rounds spent on one direction at most", low=1),
        }
        | weighting("examples"),
        _NEGATIVE_CURVATURE,
        ("gradient", "saddles", "second order"),
        batches=False,
        schedule=False,
        equation=r"x \leftarrow x - \eta \nabla f(x),\ \text{or along } v\ \text{with } v^\top "
        r"\nabla^2 f(x)\, v < 0",
        cost="one gradient and one Hessian-vector pass a round; 2 P up",
    ),
}
