"""Devices: the only file that says `shard_map`.

CPU cores are devices too: `cores_as_devices` asks for one virtual device a core, and must
run before the backend starts. `check_vma=False` is deliberate: the default inserts a psum
into every backward pass, which adds up the clients' gradients (docs/decisions/0002).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.types import PyTree

AXIS = "clients"
_DAY_SECONDS = 86_400


def cores_as_devices(count: int | None = None) -> int:
    """Make each CPU core a JAX device: two cores then train two clients at once.

    The command line does this by itself. In a notebook or script, call it once after the
    imports and before the first computation of JAX:

        import fedjax_sim as fs

        fs.cores_as_devices()

    It is without effect on a machine whose JAX runs on an accelerator. It also lifts XLA's
    60-second limit on waiting at a collective, which one long client would otherwise turn
    into an abort of the process.

    Args:
      count: number of virtual CPU devices; default the cores this process may use.

    Returns:
      The number asked for.

    Raises:
      InputError: `count` is below 1.
      RuntimeError: JAX has already started and has another number of devices.
    """
    count = _cores() if count is None else integer("count", count, least=1)
    flags = os.environ.get("XLA_FLAGS", "")
    for name in ("terminate_timeout_seconds", "warn_stuck_timeout_seconds"):
        flag = f"--xla_cpu_collective_call_{name}"
        if flag not in flags:
            flags += f" {flag}={_DAY_SECONDS}"
    os.environ["XLA_FLAGS"] = flags.strip()
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        at_hand = len(jax.devices("cpu"))
        if at_hand == count:
            return count
        raise RuntimeError(
            f"JAX has already started with {at_hand} CPU device(s), and cannot change to {count}: "
            "restart the kernel or process, and call cores_as_devices() right after the imports, "
            "before any array is made"
        ) from error
    return count


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_mesh(devices: int) -> Mesh:
    """A one-axis mesh over the first `devices` local devices."""
    at_hand = jax.devices()
    if not 1 <= devices <= len(at_hand):
        remedy = f"must lie in 1 .. {len(at_hand)}, the devices that JAX sees here"
        raise InputError("plan.devices", devices, remedy)
    return Mesh(at_hand[:devices], (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def dealt(mesh: Mesh) -> NamedSharding:
    """The sharding of what is cut over the devices along its leading axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def place(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a tree on every device of the mesh; keys, scalars and arrays alike."""
    return jax.device_put(tree, replicated(mesh))


def map_devices(body: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Run `body(shared, dealt) -> (summed, dealt_out)` on every device.

    Args:
      body: gets `shared` whole and its slice of `dealt` (leading axis cut in D); what it
        returns first must already be equal on all devices (`merge_over`).
      mesh: D devices. With D = 1 the body is called as it is, so that an outer vmap sees no
        mesh.
    """
    if mesh.size == 1:
        return body
    whole, cut = PartitionSpec(), PartitionSpec(AXIS)
    return jax.shard_map(
        body, mesh=mesh, in_specs=(whole, cut), out_specs=(whole, cut), check_vma=False
    )


def merge_over(mesh: Mesh, tree: PyTree, merge: Callable[..., Any] | None = None) -> PyTree:
    """Combine one accumulator a device: by psum, or by `merge` in device order."""
    if mesh.size == 1:
        return tree
    if merge is None:
        return jax.lax.psum(tree, AXIS)
    every = jax.lax.all_gather(tree, AXIS)
    total = jax.tree.map(lambda x: x[0], every)
    for i in range(1, mesh.size):
        total = merge(total, jax.tree.map(lambda x, i=i: x[i], every))
    return total


def deal(order: jax.Array, devices: int) -> jax.Array:
    """Deal a sorted queue to devices in snake order.

    Args:
      order: int32 `[K]`, cohort positions, longest client first.
      devices: D.

    Returns:
      int32 `[D * ceil(K / D)]`, device after device, each still longest first; K (one past
      the end) fills up where K is no multiple of D.
    """
    k = order.shape[0]
    each = -(-k // devices)
    padded = jnp.concatenate([order, jnp.full((each * devices - k,), k, order.dtype)])
    table = padded.reshape(each, devices)
    snake = jnp.where((jnp.arange(each) % 2 == 0)[:, None], table, table[:, ::-1])
    return snake.T.reshape(-1)
