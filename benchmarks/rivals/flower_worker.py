"""A workload in Flower: ServerApp, FedAvg and ClientApp in its own simulation (Ray).

    python benchmarks/rivals/flower_worker.py NAME [--workers W] [--threads T]

A simulation cannot pause, so its server loop does: before each round the strategy waits for
the driver's next command. Start-up (Ray, a thousand nodes) lies outside all timings.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402
from torch_net import Net, evaluation_batch, mean_loss, tensors  # noqa: E402
from worker import commands, tell  # noqa: E402
from workloads import WORKLOADS, flat  # noqa: E402

HELD: dict[str, Any] = {}
"""What a Ray worker keeps between clients: its examples and one network."""


def client_app(name: str, folder: str, threads: int) -> ClientApp:
    """A client: one round of local SGD on its own examples.

    Args:
      name: of the workload.
      folder: holds the examples as `.npy`, which all workers map instead of copying.
      threads: of torch in each worker.
    """
    app = ClientApp()
    workload = WORKLOADS[name]

    @app.train()  # pyright: ignore[reportUntypedFunctionDecorator]
    def train(message: Message, context: Context) -> Message:
        if not HELD:
            torch.set_num_threads(threads)
            x, y = (np.load(f"{folder}/{part}.npy", mmap_mode="c") for part in "xy")
            HELD.update(x=torch.from_numpy(x), y=torch.from_numpy(y), net=Net(workload))
        net, index = HELD["net"], int(context.node_config["partition-id"])
        first = index * workload.examples
        x, y = (HELD[part][first : first + workload.examples] for part in "xy")
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(net.parameters(), workload.rate)
        for _ in range(workload.epochs):
            for rows in torch.randperm(len(y)).split(workload.batch):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
        arrays = ArrayRecord(net.state_dict())
        metrics = MetricRecord({"num-examples": len(y)})
        content = RecordDict({"arrays": arrays, "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


class Paced(FedAvg):
    """FedAvg whose rounds wait for the driver; evaluation is the driver's too."""

    def __init__(self, net: Net, batch: Any, cohort: int, clients: int) -> None:
        """Train on `cohort` of `clients` nodes, never evaluate on them."""
        super().__init__(
            fraction_train=cohort / clients,
            fraction_evaluate=0.0,
            min_train_nodes=cohort,
            min_available_nodes=clients,
        )
        self.net, self.batch = net, batch
        self.commands, self.asked, self.left, self.started = commands(), 0, 0, 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Answer what the driver asks until it asks for a round."""
        if self.left == 0:
            if self.asked:
                seconds = time.perf_counter() - self.started
                tell(rounds=self.asked, seconds=seconds)
            self._wait(arrays)
            self.started = time.perf_counter()
        self.left -= 1
        return super().configure_train(server_round, arrays, config, grid)

    def _wait(self, arrays: ArrayRecord) -> None:
        for command, rounds in self.commands:
            if command == "run":
                self.asked = self.left = rounds
                return
            self.net.load_state_dict(arrays.to_torch_state_dict())
            tell(loss=mean_loss(self.net, self.batch))
        raise EOFError("the driver has gone")


def main() -> None:
    """Serve one workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", required=True, help="an empty folder for the examples")
    options = parser.parse_args()
    workload = WORKLOADS[options.workload]
    x, y = tensors(workload, flat(workload))
    for part, values in (("x", x), ("y", y)):
        np.save(f"{options.folder}/{part}.npy", values.numpy())
    batch = evaluation_batch(x, y)
    del x, y, values
    server = ServerApp()

    @server.main()  # pyright: ignore[reportUntypedFunctionDecorator]
    def serve(grid: Grid, context: Context) -> None:
        del context
        net = Net(workload)
        strategy = Paced(net, batch, workload.cohort, workload.clients)
        while len(list(grid.get_node_ids())) < workload.clients:
            time.sleep(0.1)
        tell(settings={"workers": options.workers, "threads": options.threads})
        strategy.start(grid, ArrayRecord(net.state_dict()), num_rounds=10**9)

    with contextlib.suppress(EOFError):
        run_simulation(
            server_app=server,
            client_app=client_app(options.workload, options.folder, options.threads),
            num_supernodes=workload.clients,
            backend_config={
                "init_args": {"num_cpus": options.workers, "log_to_driver": False},
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            },
        )


if __name__ == "__main__":
    main()
