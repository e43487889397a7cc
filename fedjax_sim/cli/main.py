"""`fedjax-sim`: dispatch to a verb, and one way to end for every kind of ending.

Exit codes: 0 done, 2 unusable input (nothing written), 3 diverged (records kept), 130
interrupted (checkpoint kept). Anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import importlib
import os
import sys

from fedjax_sim.cli.arguments import parse
from fedjax_sim.core.checks import InputError

DONE, UNUSABLE, DIVERGED, INTERRUPTED = 0, 2, 3, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
      argv: arguments without the program's name; those of the process by default.

    Returns:
      The exit code.
    """
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        print(f"fedjax-sim: error: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt as error:
        print(f"\nfedjax-sim: {_interrupted(error)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`); keep Python from complaining when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _dispatch(argv: list[str]) -> int:
    arguments, overrides = parse(argv)
    if arguments.version:
        import fedjax_sim

        print(f"fedjax-sim {fedjax_sim.__version__}")
        return DONE
    if arguments.verb is None:
        arguments.parser.print_help(sys.stderr)
        return UNUSABLE
    verb = importlib.import_module(f"fedjax_sim.cli.{arguments.verb}")
    takes_overrides = arguments.verb in ("run", "sweep", "group")
    return verb.main(arguments, overrides) if takes_overrides else verb.main(arguments)


def _interrupted(error: KeyboardInterrupt) -> str:
    out = getattr(error, "out", None)
    if out is None:
        return getattr(error, "words", "interrupted")
    done = f"interrupted after round {getattr(error, 'round', 0)}; all up to there is kept"
    done = getattr(error, "words", done)
    return f"{done}\n  go on with: fedjax-sim resume {out}"


if __name__ == "__main__":
    sys.exit(main())
