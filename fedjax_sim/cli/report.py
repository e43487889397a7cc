"""`fedjax-sim report`: a run's picture and table, drawn again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import files


def main(arguments: argparse.Namespace) -> int:
    """Draw the pictures anew and print the closing table; also of a run under way."""
    from fedjax_sim.cli import screen
    from fedjax_sim.experiment.folder import draw
    from fedjax_sim.experiment.records import read_records

    out = Path(arguments.folder)
    if not out.is_dir():
        raise InputError("out", str(out), "there is no such folder; give that of a run")
    if not (out / files.METRICS).is_file():
        raise InputError("out", str(out), f"holds no run: there is no {files.METRICS}")
    records = read_records(out / files.METRICS)
    if not records:
        raise InputError("out", str(out), "holds no round yet; go on with fedjax-sim resume")
    summary = _summary(out, records)
    try:
        draw(out, records, summary)
    except OSError as error:
        raise InputError("out", str(out), f"cannot be written: {error.strerror}") from error
    screen.closing_of(screen.console(), records, summary, out)
    return 0


def _summary(out: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    """`summary.json`, or what can be said of a run that has not ended."""
    found = files.read_json(out / files.SUMMARY)
    if found is not None:
        return found
    from fedjax_sim.experiment import config
    from fedjax_sim.experiment.summary import best_metrics, final_metrics

    table = config.read(out / files.CONFIG) if (out / files.CONFIG).is_file() else {}
    run, data = table.get("run", {}), table.get("data", {})
    known = {
        "algorithm": table.get("algorithm", {}).get("name"),
        "federation": data.get("name"),
        "clients": data.get("partition", {}).get("clients"),
        "cohort": run.get("cohort"),
        "seed": run.get("seed"),
    }
    return {k: v for k, v in known.items() if v is not None} | {
        "status": "unfinished",
        "rounds": len(records),
        "final": final_metrics(records),
        "best": best_metrics(records),
        "seconds": records[-1]["wall_time_s"],
    }
