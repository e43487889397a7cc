"""A workload in FLGo: its own fedavg runner, one client after the other.

    python benchmarks/rivals/flgo_worker.py NAME --folder EMPTY [--threads T]

FLGo keeps benchmarks and tasks as folders: both are made in `--folder`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import flgo  # noqa: E402
import flgo.benchmark.partition  # noqa: E402
import torch  # noqa: E402
from flgo.algorithm import fedavg  # noqa: E402
from torch_net import evaluation_batch, mean_loss  # noqa: E402
from worker import serve  # noqa: E402
from workloads import WORKLOADS, Workload  # noqa: E402


class Windows(flgo.benchmark.partition.BasicPartitioner):
    """Client i owns the i-th run of consecutive rows."""

    def __init__(self, clients: int, each: int) -> None:
        """Equal clients."""
        self.clients, self.each = clients, each

    def __call__(self, data: Any) -> list[list[int]]:
        """Row numbers of every client."""
        del data
        return [list(range(i * self.each, (i + 1) * self.each)) for i in range(self.clients)]


def runner_of(workload: Workload, threads: int) -> Any:
    """An FLGo runner in the current (empty) folder."""
    sys.path.insert(0, os.getcwd())
    name = flgo.gen_benchmark_from_file(
        benchmark="bench", config_file=str(HERE.parent / "flgo_config.py"), data_type="general"
    )
    benchmark = importlib.import_module(name)
    partition = Windows(workload.clients, workload.examples)
    flgo.gen_task_by_(benchmark, partition, task_path="task")
    gpu = [0] if os.environ.get("BENCH_PLATFORM") == "gpu" else []
    return flgo.init(
        "task",
        fedavg,
        option={
            "num_rounds": 0,
            "proportion": workload.cohort / workload.clients,
            "sample": "uniform",
            "aggregate": "uniform",
            "num_epochs": workload.epochs,
            "batch_size": workload.batch,
            "learning_rate": workload.rate,
            "lr_scheduler": "-1",
            "eval_interval": -1,
            "train_holdout": 0.0,
            "test_holdout": 0.0,
            "num_parallels": 1,
            "torch_num_threads": threads,
            "no_tqdm": True,
            "no_log_console": True,
            "gpu": gpu,
        },
    )


def main() -> None:
    """Serve one workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", required=True, help="an empty folder")
    options = parser.parse_args()
    os.environ["BENCH_WORKLOAD"] = options.workload
    os.chdir(options.folder)
    sys.argv = sys.argv[:1]  # FLGo reads the command line itself
    runner = runner_of(WORKLOADS[options.workload], options.threads)
    data = sys.modules["bench.config"].train_data
    batch = evaluation_batch(*data.tensors)

    def run(rounds: int) -> None:
        runner.num_rounds += rounds
        runner.run()

    def loss() -> float:
        with torch.no_grad():
            return mean_loss(runner.model, batch)

    serve(run, loss, processes=1, threads=options.threads)


if __name__ == "__main__":
    main()
