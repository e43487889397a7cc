"""A workload in pfl-research: its own FederatedAveraging on its simulated backend.

    python benchmarks/rivals/pfl_worker.py NAME [--processes P] [--threads T]

With more than one process it runs as `torchrun` would start it: every process trains its share
of the cohort and pfl reduces the updates (torch.distributed, gloo). This file starts the others
and hands them its commands.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

RANK = int(os.environ.get("RANK", 0))


def ranks(processes: int) -> list[subprocess.Popen[str]]:
    """Start the other processes; must run before pfl is imported."""
    if processes == 1 or RANK:
        return []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "bench"}
    common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    others = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=os.environ | common | {"RANK": str(i), "LOCAL_RANK": str(i)},
        )
        for i in range(1, processes)
    ]
    os.environ.update(common | {"RANK": "0", "LOCAL_RANK": "0"})
    return others


def build(name: str) -> tuple[Callable[[int], None], Callable[[], float]]:
    """`(run, loss)` of a workload."""
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Weighted
    from pfl.model.pytorch import PyTorchModel
    from torch.nn import functional
    from torch_net import Net, evaluation_batch, mean_loss, tensors
    from workloads import WORKLOADS, flat

    class PflNet(Net):
        """With the two methods that pfl wants."""

        def loss(self, x: Any, y: Any, eval: bool = False) -> torch.Tensor:
            del eval
            return functional.cross_entropy(self(x), y)

        @torch.no_grad()
        def metrics(self, x: Any, y: Any, eval: bool = True) -> dict[str, Any]:
            del eval
            total = functional.cross_entropy(self(x), y, reduction="sum").item()
            return {"loss": Weighted(total, len(y))}

    workload = WORKLOADS[name]
    data = flat(workload)
    x, y = tensors(workload, data)
    windows = [slice(a, a + n) for a, n in zip(data.offsets, data.sizes, strict=True)]
    np.random.seed(0)  # noqa: NPY002 -- pfl's sampler draws from it, alike in every process
    data = FederatedDataset(
        lambda user: Dataset(raw_data=[x[windows[user]], y[windows[user]]]),
        get_user_sampler("random", list(range(workload.clients))),
    )
    net = PflNet(workload).to(x.device)
    model = PyTorchModel(
        model=net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), 1.0),
    )
    backend = SimulatedBackend(training_data=data, val_data=None, postprocessors=[])
    train = NNTrainHyperParams(
        local_num_epochs=workload.epochs,
        local_learning_rate=workload.rate,
        local_batch_size=workload.batch,
    )

    def run(rounds: int) -> None:
        params = NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=10**9,
            train_cohort_size=workload.cohort,
            val_cohort_size=0,
        )
        FederatedAveraging().run(
            algorithm_params=params,
            backend=backend,
            model=model,
            model_train_params=train,
            model_eval_params=NNEvalHyperParams(local_batch_size=None),
            callbacks=[],
            send_metrics_to_platform=False,
        )

    return run, lambda: mean_loss(net, evaluation_batch(x, y))


def main() -> None:
    """Serve one workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    others = ranks(options.processes)
    import torch
    from worker import commands, serve

    torch.set_num_threads(options.threads)
    run, loss = build(options.workload)
    if RANK:
        for command, rounds in commands():
            if command == "run":
                run(rounds)
        return

    def run_all(rounds: int) -> None:
        for other in others:
            assert other.stdin is not None
            print("run", rounds, file=other.stdin, flush=True)
        run(rounds)

    serve(run_all, loss, processes=options.processes, threads=options.threads)
    for other in others:
        assert other.stdin is not None
        other.stdin.close()
        other.wait()


if __name__ == "__main__":
    main()
