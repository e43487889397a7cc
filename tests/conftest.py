"""What holds for every test: eight virtual CPU devices, strict arrays, no surprise."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

# A device that waits a minute at a collective aborts the process; on a busy machine with eight
# virtual devices on two cores that is a false alarm.
_DAY_S = 24 * 60 * 60
_FLAGS: dict[str, object] = {
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds": _DAY_S,
    "--xla_cpu_collective_call_terminate_timeout_seconds": _DAY_S,
}
# XLA compiles the small programs here faster without its emitters of fusions. FEDJAX_SIM_FULL_XLA=1
# tests with them, as a user runs; so do the README's examples in CI, the notebooks and benchmarks.
# A flag that XLA does not know ends the process: this one is known to be there in jaxlib 0.10.
if "FEDJAX_SIM_FULL_XLA" not in os.environ and version("jaxlib").startswith("0.10."):
    _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
for _flag, _value in _FLAGS.items():
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}".strip()

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

# By configuration, not by environment: a command line that a test starts sees what a user sees.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Traced programs are many small objects that live long: at Python's own threshold a tenth of the
# time goes into looking at them again and again.
gc.set_threshold(50_000, 10, 10)

# A failing example prints what reproduces it; CI draws the same examples every time.
hypothesis.settings.register_profile(
    "quick", deadline=None, max_examples=20, print_blob=True, derandomize="CI" in os.environ
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# Rooms whose tests compare numbers within a tolerance: most of their time is XLA's, so their
# programs are compiled with few optimizations. The engine's own tests have all of them.
_QUICK = {"aggregation", "algorithms", "cli", "clients", "diagnostics", "docs", "experiment"} | {
    "grouping",
    "sampling",
    "server",
    "systems",
    "tasks",
}


@pytest.fixture(scope="module", autouse=True)
def few_optimizations(request: pytest.FixtureRequest) -> Iterator[None]:
    name, before = (
        "jax_disable_most_optimizations",
        jax.config.read("jax_disable_most_optimizations"),
    )
    jax.config.update(name, request.path.parent.name in _QUICK or before)
    yield
    jax.config.update(name, before)


# Rooms in which the same little program comes back in many tests: it is compiled once a session.
_AGAIN = {"benchmarks", "cli", "clients", "diagnostics", "docs", "experiment"}


@pytest.fixture(scope="module", autouse=True)
def compile_cache(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Nothing is kept in the user's cache folder."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [(name, getattr(jax.config, name)) for name in names]
    folder = tmp_path_factory.getbasetemp() / "xla"
    os.environ["FEDJAX_SIM_CACHE"] = str(folder)
    if request.path.parent.name in _AGAIN:
        for name, value in zip(names, (str(folder), 0.2), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    yield
    for name, value in before:
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test, for closed forms and oracles."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data files, or a skip that says how to get them."""
    folder = os.environ.get("FEDJAX_SIM_DATA")
    if not folder:
        pytest.skip(
            "FEDJAX_SIM_DATA is not set: let it name a folder that holds mnist/ (the four IDX "
            "files), tinyshakespeare/input.txt, mushrooms/mushrooms (LIBSVM text), "
            "fedprox_synthetic/*.json, flash/*.json; CONTRIBUTING.md says where each comes from"
        )
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"FEDJAX_SIM_DATA = {folder}: must name a folder that exists")
    return path
