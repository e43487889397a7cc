"""The command line's grammar: verbs, and overrides of any field of an experiment."""

from __future__ import annotations

import argparse
import importlib
from typing import Any, NoReturn

from fedjax_sim.core.checks import InputError

LISTS = ("algorithms", "datasets", "models", "partitions", "plants", "aggregators")
_LATER = ("compare", "group", "probe", "verdict")
"""Verbs that describe themselves, in their own modules."""
_SHORT = {"rounds": "run.rounds", "algorithm": "algorithm.name", "seed": "run.seed"}
_RUN_OPTIONS = ("--help", "--out", *(f"--{short}" for short in _SHORT))

_RUN_EPILOG = """\
overrides:
  Every field of an experiment can be set as --section.key VALUE (or =VALUE). Values are
  TOML; a bare word is text. Sections: data, data.partition, data.plant, model, task, algorithm,
  client, server, run, evaluation, diagnosis, policy, systems, plan. A piece of your own is named
  "package.module:function".

examples:
  fedjax-sim run
  fedjax-sim run --algorithm fedprox --algorithm.mu 0.1 --client.epochs 2
  fedjax-sim run --data.partition.alpha 100 --model.widths "[64]" --run.cohort all
  fedjax-sim run my.toml --client.schedule cosine --out runs/cosine
"""


_GROUP_OPTIONS = ("--by", "--groups", "--kernel", "--most", "--json")
_OPTIONS = {
    "run": (*_RUN_OPTIONS, "--explain"),
    "sweep": (*_RUN_OPTIONS, "--seeds", "--vary", "--inner"),
    "group": ("--help", "--out", "--seed", "--algorithm", *_GROUP_OPTIONS),
}
"""Verbs that take overrides, and the options that they have beside them."""

_SWEEP_EPILOG = """\
All combinations of the varied values are run with every seed. Learning rates, momentum and
other numbers that change no shape share one compiled program; anything else that is varied
(epochs, batch size, algorithm, model, partition) makes a program a value. The same command
again goes on with a sweep that was cut off, and so does fedjax-sim resume DIR.

examples:
  fedjax-sim sweep --seeds 8 --vary client.learning_rate "[0.03, 0.1, 0.3]"
  fedjax-sim sweep my.toml --seeds "[0, 1, 2]" --vary algorithm.mu "[0.0, 0.1]" --out runs/mu
  fedjax-sim sweep --vary algorithm.name "['fedavg', 'fedadam']" --vary client.epochs "[1, 5]"
  fedjax-sim sweep --vary data.partition.alpha "[0.1, 1.0, 100.0]" --rounds 50
  fedjax-sim sweep --out runs/mu
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are `InputError`s."""

    def error(self, message: str) -> NoReturn:
        """Refuse what cannot be parsed."""
        given, _, rest = message.partition(": ")
        field = given if rest else "arguments"
        raise InputError(field, rest or message, f"see {self.prog} --help")


def make_parser() -> Parser:
    """The parser of all verbs; starts no JAX."""
    parser = Parser(
        prog="fedjax-sim",
        description="Simulate federated learning: a cohort of clients is one compiled program.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    _add_run(verbs)
    _add_sweep(verbs)
    resume = verbs.add_parser("resume", help="go on with a run or sweep that was cut off")
    resume.add_argument("folder", metavar="DIR", help="its folder")
    listing = verbs.add_parser("list", help="what can be named in an experiment")
    listing.add_argument("what", choices=LISTS)
    listing.add_argument("name", nargs="?", metavar="NAME", help="an algorithm, to tell all of it")
    listing.add_argument("--tag", metavar="TAG", help="only algorithms with this tag")
    listing.add_argument("--bibtex", action="store_true", help="the algorithms' papers as BibTeX")
    verbs.add_parser("doctor", help="versions, devices, data, cache: what works here")
    report = verbs.add_parser("report", help="draw a run's picture and print its table again")
    report.add_argument("folder", metavar="DIR", help="its folder")
    for verb in _LATER:
        importlib.import_module(f"fedjax_sim.cli.{verb}").add(verbs)
    return parser


def _add_run(verbs: Any) -> None:
    run = verbs.add_parser(
        "run",
        help="train an experiment; without a file, the bundled one",
        usage="fedjax-sim run [EXPERIMENT.toml] [--explain] [--out DIR] [--rounds N] "
        "[--algorithm NAME] "
        "[--seed N] [--section.key VALUE ...]",
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.add_argument("experiment", nargs="?", metavar="EXPERIMENT.toml", help="experiment file")
    run.add_argument("--out", metavar="DIR", help="run folder; default runs/NAME-1, -2, ...")
    words = "tell memory, plan and time of the run, and do not run it; writes nothing"
    run.add_argument("--explain", action="store_true", help=words)
    run.add_argument("--rounds", metavar="N", help="federated rounds (run.rounds)")
    run.add_argument("--algorithm", metavar="NAME", help="algorithm.name; see list algorithms")
    run.add_argument("--seed", metavar="N", help="seed of model, cohorts, shuffles (run.seed)")


def _add_sweep(verbs: Any) -> None:
    sweep = verbs.add_parser(
        "sweep",
        help="train with several seeds and values, as one program where shapes allow",
        usage='fedjax-sim sweep [EXPERIMENT.toml] [--out DIR] [--seeds N|"[0, 1]"] '
        '[--vary KEY "[V, ...]" ...] [--rounds N] [--section.key VALUE ...]',
        epilog=_SWEEP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sweep.add_argument("experiment", nargs="?", metavar="EXPERIMENT.toml", help="experiment file")
    sweep.add_argument("--out", metavar="DIR", help="folder; default runs/NAME-sweep-1, -2, ...")
    words = "how many seeds, counted from run.seed, or a list of them; default 4"
    sweep.add_argument("--seeds", metavar="N|[..]", help=words)
    words = "a field and its values, a TOML list; may be given several times"
    sweep.add_argument(
        "--vary", nargs=2, action="append", default=[], metavar=("KEY", "[V, ...]"), help=words
    )
    words = "how a device runs its share: auto, map, hyper, vmap or probe"
    sweep.add_argument("--inner", metavar="HOW", default="auto", help=words)
    sweep.add_argument("--rounds", metavar="N", help="federated rounds (run.rounds)")
    sweep.add_argument("--algorithm", metavar="NAME", help="algorithm.name; see list algorithms")
    sweep.add_argument("--seed", metavar="N", help="the first seed (run.seed)")


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The arguments of a verb, and `{dotted key: text}` of the overrides.

    Raises:
      InputError: what no verb takes, a value that is missing, a key given twice.
    """
    parser = make_parser()
    verb = argv[0] if argv else ""
    if verb not in _OPTIONS:
        arguments = parser.parse_args(argv)
        arguments.parser = parser
        return arguments, {}
    rest, overrides = split_overrides(argv)
    _refuse_unknown(rest, verb)
    arguments = parser.parse_args(rest)
    arguments.parser = parser
    for short, key in _SHORT.items():
        text = getattr(arguments, short, None)
        if text is not None:
            _add(overrides, key, text)
    return arguments, overrides


def _refuse_unknown(rest: list[str], verb: str) -> None:
    """Refuse an option that the verb does not have, and say which field it may have meant."""
    options = _OPTIONS[verb]
    for token, after in zip(rest, [*rest[1:], ""], strict=True):
        name, equals, value = token.partition("=")
        if not name.startswith("--") or name in options:
            continue
        from fedjax_sim.experiment.sections import Client, Plan, Run

        word = name[2:].replace("-", "_")
        fields = (("client", Client), ("run", Run), ("plan", Plan))
        meant = [f"--{section}.{word}" for section, model in fields if word in model.model_fields]
        remedy = f"did you mean {meant[0]}? " if meant else ""
        remedy += f"fields are set as --section.key VALUE; see fedjax-sim {verb} --help"
        raise InputError(name, value if equals else after or "(nothing)", remedy)


def split_overrides(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take `--section.key VALUE` and `--section.key=VALUE` out of the arguments.

    Example:
      >>> split_overrides(["run", "--client.epochs", "2", "--seed", "1"])
      (['run', '--seed', '1'], {'client.epochs': '2'})
    """
    rest: list[str] = []
    overrides: dict[str, str] = {}
    tokens = iter(argv)
    for token in tokens:
        name, equals, value = token[2:].partition("=")
        if not token.startswith("--") or "." not in name:
            rest.append(token)
            continue
        if not equals:
            value = next(tokens, "--")
            if value.startswith("--"):
                raise InputError(f"--{name}", "(nothing)", f"needs a value: --{name} VALUE")
        _add(overrides, name, value)
    return rest, overrides


def _add(overrides: dict[str, str], key: str, text: str) -> None:
    if key in overrides:
        remedy = f"is given twice, first as {overrides[key]}; give it once"
        raise InputError(key, text, remedy)
    overrides[key] = text
