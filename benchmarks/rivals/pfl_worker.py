"""W1 in pfl-research, with its own FederatedAveraging and simulated backend."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
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
from worker import serve
from workloads import WORKLOADS, Workload, examples, initial


class Net(torch.nn.Module):
    """The workload's network, with the two methods that pfl wants."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for weight, bias in initial(workload):
            layer = torch.nn.Linear(*weight.shape)
            layer.weight.data = torch.tensor(weight.T.copy())
            layer.bias.data = torch.tensor(bias)
            layers += [layer, torch.nn.ReLU()]
        self.net = torch.nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.net(x)

    def loss(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> torch.Tensor:
        """Mean cross entropy."""
        return torch.nn.functional.cross_entropy(self(x), y)

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor, eval: bool = True) -> dict:
        """What pfl records."""
        total = torch.nn.functional.cross_entropy(self(x), y, reduction="sum").item()
        return {"loss": Weighted(total, len(y))}


def main(name: str) -> None:
    """Serve one workload."""
    workload = WORKLOADS[name]
    torch.set_num_threads(2)
    x, y = examples(workload)
    tensors = [
        (torch.tensor(a), torch.tensor(b.astype(np.int64))) for a, b in zip(x, y, strict=True)
    ]
    users = list(range(workload.clients))
    sampler = get_user_sampler("random", users)
    data = FederatedDataset(lambda u: Dataset(raw_data=list(tensors[u])), sampler)
    net = Net(workload)
    model = PyTorchModel(
        model=net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), 1.0),
    )
    backend = SimulatedBackend(training_data=data, val_data=None, postprocessors=[])
    train = NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=workload.rate, local_batch_size=workload.batch
    )
    params = NNAlgorithmParams(
        central_num_iterations=workload.rounds,
        evaluation_frequency=10**9,
        train_cohort_size=workload.cohort,
        val_cohort_size=0,
    )
    everything = (
        torch.tensor(x.reshape(-1, x.shape[-1])),
        torch.tensor(y.reshape(-1).astype(np.int64)),
    )

    def block() -> None:
        FederatedAveraging().run(
            algorithm_params=params,
            backend=backend,
            model=model,
            model_train_params=train,
            model_eval_params=NNEvalHyperParams(local_batch_size=None),
            callbacks=[],
            send_metrics_to_platform=False,
        )

    def loss() -> float:
        with torch.no_grad():
            return net.loss(*everything).item()

    serve(block, loss, workload.rounds)


if __name__ == "__main__":
    main(sys.argv[1])
