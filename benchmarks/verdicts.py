"""Is the verdict right? Labelled runs whose truth is known by construction.

    python benchmarks/verdicts.py [--split tuning] [--show-wrong] [--fresh] [--no-record]

Makes the runs of every family in `verdict_suite` (a few minutes; kept in `benchmarks/.cache`), asks
the verdict of each, of all its records and of the first half, and prints accuracy by class and
family and the confusion matrices, tuning families and held-out ones apart. The truth rule is in
`verdict_suite/rules.py`; runs between two verdicts are left out, and counted. Record:
`results/verdicts.json`, picture: `results/verdicts.png`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import records
from machine import describe
from verdict_suite import cache
from verdict_suite.catalogue import FAMILIES
from verdict_suite.scoring import Answer, Classifier, ask, row_of, table, wrong
from verdict_suite.suite import HELD_OUT, TUNING, Family, LabelledRun, Record, series_of

RESULT = records.RESULTS / "verdicts.json"
KEY = ("split", "cut")
CUTS = {"whole": False, "first half": True}
BARS = {("all", "whole"): 0.95, ("all", "first half"): 0.85, (HELD_OUT, "whole"): 0.90}


def package_verdict(seen: Sequence[Record], floor: float | None) -> str:
    """The package's verdict on records."""
    from fedjax_sim.diagnostics.verdict import verdict

    return verdict(series_of(seen), floor=floor).name


def make_all(
    families: Sequence[Family], folder: Path, *, quick: bool, fresh: bool, workers: int
) -> list[LabelledRun]:
    """The runs of all families; what the cache lacks is made, each family in its own process."""
    paths = {f.name: cache.path_of(folder, f.name, quick) for f in families}
    missing = [f for f in families if fresh or not paths[f.name].exists()]

    def make(family: Family) -> None:
        began = time.perf_counter()
        command = [sys.executable, __file__, "--make", family.name, "--cache", str(folder)]
        subprocess.run([*command, *(["--quick"] if quick else [])], check=True)
        print(f"made {family.name} in {time.perf_counter() - began:.0f} s", flush=True)

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        # The long ones first.
        list(pool.map(make, sorted(missing, key=lambda f: f.cheap)))
    return [run for f in families for run in cache.read(paths[f.name])]


def scores(
    runs: Sequence[LabelledRun], classify: Classifier
) -> tuple[list[dict[str, Any]], dict[str, list[Answer]]]:
    """`(rows, answers by "split, cut")` of both splits and of all together."""
    rows: list[dict[str, Any]] = []
    answers: dict[str, list[Answer]] = {}
    # A part is not all: bars are for both splits together.
    splits = [s for s in (TUNING, HELD_OUT) if any(r.split == s for r in runs)]
    for cut, half in CUTS.items():
        of_all = ask(runs, classify, half=half)
        for split in splits if len(splits) == 1 else ("all", *splits):
            mine = [r for r in runs if split in ("all", r.split)]
            found = [a for a in of_all if split in ("all", a.run.split)]
            if found:
                rows.append(row_of(found, len(mine) - len(found), split=split, cut=cut))
                answers[f"{split}, {cut}"] = found
    return rows, answers


def bars(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Each bar, and whether it is cleared."""
    out: list[str] = []
    for row in rows:
        name = f"{row['split']}, {row['cut']}"
        least = BARS.get((row["split"], row["cut"]))
        if least is not None:
            out.append(_bar(f"{name}: accuracy", row["accuracy"], least))
        if (row["split"], row["cut"]) == ("all", "whole"):
            for verdict, found in row["per_class"].items():
                if found["runs"]:
                    out.append(_bar(f"{name}: {verdict}", found["accuracy"], 0.90))
    return out


def _bar(name: str, value: float, least: float) -> str:
    word = "cleared" if value >= least else "MISSED"
    return f"{name} {100 * value:.1f} %, at least {100 * least:.0f} %: {word}"


def show(rows: Sequence[dict[str, Any]], answers: dict[str, list[Answer]], mistakes: bool) -> None:
    """Print tables, and the misjudged runs where asked for."""
    for row in rows:
        print(f"\n{table(row)}")
        if mistakes and row["split"] != "all":
            print(wrong(answers[f"{row['split']}, {row['cut']}"]))
    print("\n" + "\n".join(bars(rows)))


def main(given: Sequence[str] | None = None) -> int:
    """Run the suite; exit code 1 where a bar is missed."""
    options = _options(given)
    chosen = [f for f in FAMILIES if options.split in ("all", f.split)]
    chosen = [f for f in chosen if f.cheap or not options.quick]
    if options.make:
        (family,) = (f for f in FAMILIES if f.name == options.make)
        path = cache.path_of(options.cache, family.name, options.quick)
        cache.write(path, family.make(options.quick))
        return 0
    runs = make_all(chosen, options.cache, quick=options.quick, fresh=options.fresh,
                    workers=options.workers)  # fmt: skip
    rows, answers = scores(runs, package_verdict)
    show(rows, answers, options.show_wrong)
    # A part of the suite, or made in a hurry, is no result.
    if not (options.no_record or options.quick or options.split != "all"):
        from verdict_chart import confusions

        every = records.merge(RESULT, [row | {"machine": describe()} for row in rows], KEY)
        print(f"{RESULT}\n{confusions(every, RESULT)}")
    return int(any(line.endswith("MISSED") for line in bars(rows)))


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Is the verdict right?")
    parser.add_argument("--split", choices=("all", TUNING, HELD_OUT), default="all")
    parser.add_argument("--quick", action="store_true", help="a few runs of the cheap families")
    parser.add_argument("--show-wrong", action="store_true", help="list misjudged runs")
    parser.add_argument("--fresh", action="store_true", help="make all runs anew")
    parser.add_argument("--cache", type=Path, default=cache.DEFAULT, help="folder of made runs")
    parser.add_argument("--workers", type=int, default=2, help="families made at the same time")
    parser.add_argument("--no-record", action="store_true", help="print only")
    parser.add_argument("--make", metavar="FAMILY", help="only make this family's runs")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
