"""Models made of others' models, of past ones or of memory, as the laws see them."""

from contracts.case import LOCAL, ORDERED, Case, heavy, sgd

from fedjax_sim.algorithms.fedala import fedala
from fedjax_sim.algorithms.fedamp import fedamp
from fedjax_sim.algorithms.fedfomo import fedfomo
from fedjax_sim.algorithms.fedphp import fedphp
from fedjax_sim.algorithms.knn_per import knn_per

_TOGETHER = {"shuffle": False, **LOCAL}  # no means of reports, so that nothing weighs them

CASES: dict[str, Case] = {
    "fedamp": Case(
        lambda: fedamp(heavy, penalty=0.5, sigma=2.0, attention="distance", decay=0.5, **_TOGETHER),
        {"penalty": 0.1, "sigma": 1.0},
        weighted=False,
        shared=False,
    ),
    "fedfomo": Case(
        lambda: fedfomo(sgd, models=3, validation=0.3, **_TOGETHER),
        {"lr": 0.1, "validation": 0.5},
        weighted=False,
        shared=False,
    ),
    "fedala": Case(
        lambda: fedala(heavy, blended="re:^w$", decay=0.5, share=0.6, **ORDERED),
        {"weight_rate": 0.5, "decay": 0.2},
        rows=True,
        personal=True,
    ),
    "fedphp": Case(
        lambda: fedphp(sgd, strength=0.4, temperature=2.0, visits=3.0, **ORDERED),
        {"strength": 0.1, "temperature": 1.0},
        rows=True,
        personal=True,
    ),
    "knn_per": Case(
        lambda: knn_per(sgd, neighbours=3, capacity=8, **ORDERED), {"lr": 0.1}, personal=True
    ),
}
