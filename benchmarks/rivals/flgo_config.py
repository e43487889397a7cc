"""What flgo asks of a benchmark: data, model, loss. Copied into a benchmark by `flgo_worker.py`.

The workload's name comes in `BENCH_WORKLOAD`; `benchmarks/` and `benchmarks/rivals/` are on the
path of the process that imports this.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from torch.nn import functional
from torch_net import Net, tensors
from workloads import WORKLOADS, flat

WORKLOAD = WORKLOADS[os.environ["BENCH_WORKLOAD"]]

train_data = torch.utils.data.TensorDataset(*tensors(WORKLOAD, flat(WORKLOAD)))
DataLoader = functools.partial(torch.utils.data.DataLoader, shuffle=True)


def data_to_device(batch: Any, device: torch.device) -> Any:
    """Both tensors of a batch, moved."""
    return tuple(part.to(device) for part in batch)


def eval(model: torch.nn.Module, loader: Any, device: torch.device) -> dict[str, float]:
    """Mean loss over a loader; flgo calls it only where evaluation is on."""
    pairs = [data_to_device(batch, device) for batch in loader]
    total = sum(functional.cross_entropy(model(x), y, reduction="sum").item() for x, y in pairs)
    return {"loss": total / sum(len(y) for _, y in pairs)}


def compute_loss(model: torch.nn.Module, batch: Any, device: torch.device) -> dict[str, Any]:
    """Mean cross entropy of a batch."""
    x, y = data_to_device(batch, device)
    return {"loss": functional.cross_entropy(model(x), y)}


def get_model() -> torch.nn.Module:
    """The network with the common weights."""
    return Net(WORKLOAD)
