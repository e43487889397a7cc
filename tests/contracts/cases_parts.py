"""Models in two parts, as the laws see them; the bias is the head."""

from contracts.case import ORDERED, Case, heavy

from fedjax_sim.algorithms.fedbabu import fedbabu
from fedjax_sim.algorithms.fedbn import fedbn
from fedjax_sim.algorithms.fedper import fedper
from fedjax_sim.algorithms.fedrep import fedrep
from fedjax_sim.algorithms.fedrod import fedrod
from fedjax_sim.algorithms.lg_fedavg import lg_fedavg

_OWN = {"personal": "re:^b$", "decay": 0.5, **ORDERED}
_HEAD, _BODY = _OWN, _OWN | {"personal": "re:^w$"}

CASES: dict[str, Case] = {
    "fedper": Case(lambda: fedper(heavy, **_HEAD), {"lr": 0.1}, rows=True, shared=False),
    "lg_fedavg": Case(lambda: lg_fedavg(heavy, **_BODY), {"lr": 0.1}, rows=True, shared=False),
    "fedrep": Case(
        lambda: fedrep(heavy, head_epochs=1, **_HEAD), {"lr": 0.1}, rows=True, shared=False
    ),
    "fedbabu": Case(lambda: fedbabu(heavy, tune_epochs=1, **_HEAD), {"decay": 0.1}, personal=True),
    "fedbn": Case(lambda: fedbn(heavy, **_HEAD), {"decay": 0.1}, rows=True, shared=False),
    "fedrod": Case(lambda: fedrod(heavy, **_HEAD), {"lr": 0.1}, rows=True, personal=True),
}
