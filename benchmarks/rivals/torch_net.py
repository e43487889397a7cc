"""The workloads' models in torch, from the common weights; for every rival that runs torch."""

from __future__ import annotations

import os

import numpy as np
import torch
from architectures import Conv, Layer
from torch.nn import functional
from worker import evaluation_rows
from workloads import Flat, Workload, initial


class Net(torch.nn.Module):
    """Convolutions on NCHW images or dense layers on vectors, ReLU between them.

    The pool comes before the ReLU, which gives the same numbers for less work.
    """

    def __init__(self, workload: Workload) -> None:
        """Load the weights that every simulator starts from."""
        super().__init__()
        self.kinds = workload.layers
        self.layers = torch.nn.ModuleList()
        before: Layer | None = None
        for kind, (weight, bias) in zip(workload.layers, initial(workload), strict=True):
            self.layers.append(_layer(kind, before, weight, bias))
            before = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[B, classes]`."""
        last = len(self.layers) - 1
        for i, (kind, layer) in enumerate(zip(self.kinds, self.layers, strict=True)):
            if not isinstance(kind, Conv) and x.ndim > 2:
                x = x.flatten(1)
            x = layer(x)
            if isinstance(kind, Conv) and kind.pool:
                x = functional.max_pool2d(x, 2)
            if i < last:
                x = functional.relu(x)
        return x


def _layer(
    kind: Layer, before: Layer | None, weight: np.ndarray, bias: np.ndarray
) -> torch.nn.Module:
    if isinstance(kind, Conv):
        same = kind.side // 2 if kind.padding == "SAME" else 0
        layer: torch.nn.Module = torch.nn.Conv2d(kind.inputs, kind.outputs, kind.side, padding=same)
        weight = weight.transpose(3, 2, 0, 1)
    else:
        layer = torch.nn.Linear(kind.inputs, kind.outputs)
        if isinstance(before, Conv):  # ours flattens HWC, torch CHW
            side = int((kind.inputs // before.outputs) ** 0.5)
            weight = weight.reshape(side, side, before.outputs, -1).transpose(2, 0, 1, 3)
            weight = weight.reshape(kind.inputs, -1)
        weight = weight.T
    layer.weight.data = torch.tensor(np.ascontiguousarray(weight))
    layer.bias.data = torch.tensor(bias)
    return layer


def device() -> torch.device:
    """Where models live: a GPU when the driver asked for one by `BENCH_PLATFORM`."""
    return torch.device("cuda" if os.environ.get("BENCH_PLATFORM") == "gpu" else "cpu")


def tensors(workload: Workload, data: Flat) -> tuple[torch.Tensor, torch.Tensor]:
    """All examples on the device: images as contiguous NCHW, labels int64."""
    x = data.x
    if isinstance(workload.layers[0], Conv):
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return torch.from_numpy(x).to(device()), torch.from_numpy(data.y.astype(np.int64)).to(device())


def evaluation_batch(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows on which the loss is measured."""
    rows = torch.from_numpy(evaluation_rows(len(y))).to(x.device)
    return x[rows], y[rows]


@torch.no_grad()
def mean_loss(net: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Mean cross entropy."""
    return functional.cross_entropy(net(batch[0]), batch[1]).item()
