"""Getting JAX ready, before anything touches a device."""

from __future__ import annotations

import contextlib
import os
from typing import Any


def prepare(devices: Any = "auto", *, at_least: int = 0) -> None:
    """Make CPU cores devices and keep compiled programs on disk.

    Leaves alone what the user decided: a platform that is not the CPU, a number of CPU
    devices, one device, a cache folder of his own. Does no harm where there is a GPU: the
    number of CPU devices is then without effect.

    Args:
      devices: the plan's devices, or `auto`.
      at_least: CPU devices that are needed in any case (a resumed run keeps its plan).
    """
    import jax

    from fedjax_sim.engine.mesh import cores_as_devices
    from fedjax_sim.experiment.cache_dir import use_compile_cache

    use_compile_cache()
    asked = getattr(jax.config, "jax_platforms", None) or os.environ.get("JAX_PLATFORMS")
    platforms = asked or "cpu"
    decided = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    decided |= "JAX_NUM_CPU_DEVICES" in os.environ
    if devices == 1 or decided or "cpu" not in platforms.split(","):
        return
    # Once a backend runs (in a notebook or a test) the number cannot be changed any more.
    with contextlib.suppress(RuntimeError):
        cores = cores_as_devices()
        if cores < at_least:
            cores_as_devices(at_least)
