"""`fedjax-sim group`: the groups of a federation, without training."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from fedjax_sim.core.checks import InputError

_EPILOG = """\
Which clients are alike, and how many kinds are there? Clients are compared by the shares of their
labels, by their inputs' mean and mean square, or by what they would send in the first round
of the experiment. Without --groups there are as many groups as explain more than chance: a
split counts if dealing the examples anew within the groups would not explain as much. Where
groups were planted in the data ([data.plant], label_groups, planted_groups) they are the truth that
the answer is scored against. With --out, groups.json and groups.png are left in DIR.

examples:
  fedjax-sim group
  fedjax-sim group --data.plant.name rotated --data.plant.groups 4 --by features
  fedjax-sim group --data.plant.name relabelled --by updates --groups 3 --out groups
  fedjax-sim group my.toml --kernel spectral --groups 5
"""


def add(verbs: Any) -> None:
    """Add the verb to the command line's parser."""
    verb = verbs.add_parser(
        "group",
        help="the groups of a federation's clients, without training",
        usage="fedjax-sim group [EXPERIMENT.toml] [--by WHAT] [--groups K] [--kernel NAME] "
        "[--most K] [--out DIR] [--json] [--seed N] [--section.key VALUE ...]",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.add_argument("experiment", nargs="?", metavar="EXPERIMENT.toml", help="experiment file")
    words = "labels, features or updates; by default labels where there are any, else features"
    verb.add_argument("--by", metavar="WHAT", help=words)
    words = "how many groups, or auto (default)"
    verb.add_argument("--groups", metavar="K", default="auto", help=words)
    words = "kmeans (default), agglomerative, spectral, bipartition or density"
    verb.add_argument("--kernel", metavar="NAME", default="kmeans", help=words)
    verb.add_argument("--most", metavar="K", default="10", help="groups that auto tries; 10")
    verb.add_argument("--out", metavar="DIR", help="leave groups.json and groups.png there")
    verb.add_argument("--json", action="store_true", help="print groups.json instead of tables")
    words = "algorithm.name, for --by updates; see list algorithms"
    verb.add_argument("--algorithm", metavar="NAME", help=words)
    verb.add_argument("--seed", metavar="N", help="of sketches, kernel and initial model")


def main(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Group, print, leave the two files where --out says."""
    from fedjax_sim.experiment import config, files

    most, groups = _whole("most", arguments.most), arguments.groups
    groups = groups if groups == "auto" else _whole("groups", groups)
    path = None if arguments.experiment is None else Path(arguments.experiment)
    values = {key: config.parse_value(key, text) for key, text in overrides.items()}
    file = config.read(path)
    file.setdefault("client", {"epochs": 1})  # a file that only says the data will do
    experiment = config.resolve(file, config.overrides_table(values | {"run.cohort": "all"}))
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None:
        if out.exists() and not out.is_dir():
            raise InputError("out", str(out), "must be a folder, and is a file")
        files.check_writable(out)
    from fedjax_sim.cli import backend

    backend.prepare(experiment.plan.devices)
    import jax

    wide = jax.enable_x64(True) if experiment.plan.float64 else contextlib.nullcontext()
    with wide:
        found = _find(experiment, arguments.by, groups, arguments.kernel, most)
    if out is not None:
        _leave(out, found)
    if arguments.json:
        print(json.dumps(found.facts(), allow_nan=False))
    else:
        _tell(experiment, found, out)
    return 0


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        also = ' or "auto"' if name == "groups" else ""
        raise InputError(f"--{name}", text, f"must be a whole number{also}") from None


def _find(experiment: Any, by: str | None, groups: int | str, kernel: str, most: int) -> Any:
    from fedjax_sim.experiment.build import build, federation
    from fedjax_sim.experiment.group import UPDATES, group

    task = recipe = None
    if by == UPDATES:
        built = build(experiment)
        data, task, recipe = built.federation, built.task, built.recipe
    else:
        data = federation(experiment)
    devices = experiment.plan.devices
    return group(
        data,
        by=by,
        groups=groups,
        kernel=kernel,
        task=task,
        recipe=recipe,
        most=most,
        seed=experiment.run.seed,
        devices=None if devices == "auto" else devices,
    )


def _leave(out: Path, found: Any) -> None:
    from fedjax_sim.experiment import files
    from fedjax_sim.experiment.group import PICTURE, RESULT

    files.make_folder(out)
    text = json.dumps(found.facts(), indent=1, allow_nan=False) + "\n"
    files.write_whole(out / RESULT, text)
    figure = found.plot()
    figure.savefig(out / PICTURE, dpi=150)
    figure.clear()


def _tell(experiment: Any, found: Any, out: Path | None) -> None:
    from fedjax_sim.cli.screen import console
    from fedjax_sim.experiment.group import PICTURE, RESULT
    from fedjax_sim.experiment.group_table import groups_table, sentences

    to = console()
    name, many = found.federation.name, found.federation.n_clients
    to.print(f"[bold]{name}[/], {many:,} clients")
    for note in experiment.notes:
        to.print(f"note: {note}", style="yellow")
    to.print(groups_table(found))
    for line in sentences(found):
        to.print(line, markup=False)
    if out is not None:
        to.print()
        to.print(f"{out}/{PICTURE}  [dim]map, label mixes, similarities, why so many[/]")
        to.print(f"{out}/{RESULT}  [dim]each client's group, and all numbers[/]")
