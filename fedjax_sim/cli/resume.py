"""`fedjax-sim resume`: go on with a run or a sweep that was cut off."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.files import CONFIG, SWEEP, check_used


def main(arguments: argparse.Namespace) -> int:
    """Go on, bitwise as if nothing had happened; starts anew without a checkpoint."""
    out = Path(arguments.folder)
    if (out / SWEEP).is_file():
        from fedjax_sim.cli.sweep import go_on

        return go_on(out)
    check_used(out)
    from fedjax_sim.cli.run import train
    from fedjax_sim.experiment import config

    table = config.read(out / CONFIG)
    if "data" not in table:
        remedy = "was made in Python; call fedjax_sim.resume() from the script that made it"
        raise InputError("out", str(out), remedy)
    return train(config.resolve(table), out, resume=True)
