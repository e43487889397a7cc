"""A federated-learning simulator in JAX: clients are a batch dimension.

Names are imported when they are first used, so that `import fedjax_sim` starts no backend
and costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjax_sim import algorithms, data, diagnostics, grouping, systems, tasks, transforms
    from fedjax_sim.core.checks import InputError
    from fedjax_sim.data import partition
    from fedjax_sim.data.batching import Batches
    from fedjax_sim.data.federated import Federation
    from fedjax_sim.engine.compose import compose, recipe
    from fedjax_sim.engine.mesh import cores_as_devices
    from fedjax_sim.experiment.api import resume, run
    from fedjax_sim.experiment.cite import cite
    from fedjax_sim.experiment.compare import compare
    from fedjax_sim.experiment.critical import probe_run as probe
    from fedjax_sim.experiment.evaluation import Evaluation
    from fedjax_sim.experiment.explain import explain
    from fedjax_sim.experiment.group import group
    from fedjax_sim.experiment.interrupt import Interrupted
    from fedjax_sim.experiment.model_io import load
    from fedjax_sim.experiment.policy import Policy
    from fedjax_sim.experiment.session import Session
    from fedjax_sim.experiment.settings import Diagnosis, Settings
    from fedjax_sim.experiment.sweep import sweep
    from fedjax_sim.experiment.systems import Systems
    from fedjax_sim.experiment.verdict_file import verdict_of as verdict
    from fedjax_sim.tasks import models

    __version__: str

_MODULES = {
    "algorithms": "fedjax_sim.algorithms",
    "data": "fedjax_sim.data",
    "diagnostics": "fedjax_sim.diagnostics",
    "grouping": "fedjax_sim.grouping",
    "models": "fedjax_sim.tasks.models",
    "partition": "fedjax_sim.data.partition",
    "systems": "fedjax_sim.systems",
    "tasks": "fedjax_sim.tasks",
    "transforms": "fedjax_sim.transforms",
}
_NAMES = {
    "Batches": "fedjax_sim.data.batching",
    "Diagnosis": "fedjax_sim.experiment.settings",
    "Evaluation": "fedjax_sim.experiment.evaluation",
    "Federation": "fedjax_sim.data.federated",
    "InputError": "fedjax_sim.core.checks",
    "Interrupted": "fedjax_sim.experiment.interrupt",
    "Policy": "fedjax_sim.experiment.policy",
    "Session": "fedjax_sim.experiment.session",
    "Settings": "fedjax_sim.experiment.settings",
    "Systems": "fedjax_sim.experiment.systems",
    "cite": "fedjax_sim.experiment.cite",
    "compare": "fedjax_sim.experiment.compare",
    "compose": "fedjax_sim.engine.compose",
    "cores_as_devices": "fedjax_sim.engine.mesh",
    "explain": "fedjax_sim.experiment.explain",
    "group": "fedjax_sim.experiment.group",
    "load": "fedjax_sim.experiment.model_io",
    "probe": "fedjax_sim.experiment.critical:probe_run",
    "recipe": "fedjax_sim.engine.compose",
    "resume": "fedjax_sim.experiment.api",
    "run": "fedjax_sim.experiment.api",
    "sweep": "fedjax_sim.experiment.sweep",
    "verdict": "fedjax_sim.experiment.verdict_file:verdict_of",
}

__all__ = [
    "Batches",
    "Diagnosis",
    "Evaluation",
    "Federation",
    "InputError",
    "Interrupted",
    "Policy",
    "Session",
    "Settings",
    "Systems",
    "__version__",
    "algorithms",
    "cite",
    "compare",
    "compose",
    "cores_as_devices",
    "data",
    "diagnostics",
    "explain",
    "group",
    "grouping",
    "load",
    "models",
    "partition",
    "probe",
    "recipe",
    "resume",
    "run",
    "sweep",
    "systems",
    "tasks",
    "transforms",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(_MODULES[name])
    elif name in _NAMES:
        module, _, own_name = _NAMES[name].partition(":")
        value = getattr(importlib.import_module(module), own_name or name)
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    metadata = importlib.import_module("importlib.metadata")
    try:
        return metadata.version("fedjax-sim")
    except metadata.PackageNotFoundError:
        return "0.1.0"
