"""Shakespeare's speakers as clients that learn to predict the next character."""

from __future__ import annotations

import string

import numpy as np

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.data.build import from_arrays
from fedjax_sim.data.federated import Federation
from fedjax_sim.data.partition_sizes import natural
from fedjax_sim.data.readers.cache import Source, locate

VOCABULARY = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase
"""The 65 characters of tinyshakespeare in code order; a character's place is its id."""

UNKNOWN = len(VOCABULARY)
"""Id 65: every character outside the vocabulary. There are 66 classes."""

_SOURCE = Source(
    "tinyshakespeare",
    "input.txt",
    ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
    "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


def encode(text: str) -> np.ndarray:
    """Character ids int32 `[len(text)]` under `VOCABULARY`; `UNKNOWN` elsewhere."""
    table = {c: i for i, c in enumerate(VOCABULARY)}
    return np.array([table.get(c, UNKNOWN) for c in text], np.int32)


def decode(ids: np.ndarray) -> str:
    """The text of character ids; `UNKNOWN` becomes the replacement character U+FFFD."""
    return "".join((VOCABULARY + "\ufffd")[i] for i in np.asarray(ids).ravel())


def speeches(text: str) -> dict[str, str]:
    """Everything each speaker says.

    A speech is a line `NAME:`, then lines up to an empty one. A line that ends in a colon
    inside a speech opens nothing.

    Args:
      text: a play, as in tinyshakespeare.

    Returns:
      `{speaker: speeches}` in order of first appearance; each speech ends in a newline.

    Raises:
      InputError: a block that does not begin with `NAME:`.
    """
    said: dict[str, list[str]] = {}
    for block in text.replace("\r\n", "\n").split("\n\n"):
        name, _, speech = block.strip("\n").partition("\n")
        if not name:
            continue
        if not name.endswith(":") or len(name) == 1:
            raise InputError("speech", name, "the line after an empty line must be NAME:")
        said.setdefault(name[:-1], []).append(speech.strip("\n") + "\n")
    return {name: "".join(parts) for name, parts in said.items() if "".join(parts).strip()}


def windows(ids: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut `ids [n]` into inputs and next characters, `[E, length]` each, E = (n - 1) // length.

    Windows do not overlap; what does not fill a window is left out.
    """
    count = max(len(ids) - 1, 0) // length
    x = ids[: count * length].reshape(count, length)
    return x, ids[1 : count * length + 1].reshape(count, length)


def shakespeare(
    sequence_length: int = 80,
    min_examples: int = 2,
    *,
    seed: int = 0,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
) -> Federation:
    """Speakers of Shakespeare's plays (tinyshakespeare), predicting the next character.

    Each speaker is a client; its speeches, joined in the order of the plays, are cut into
    windows that do not overlap. Characters have fixed ids (`VOCABULARY`, 66 with unknown).

    Args:
      sequence_length: T, characters in a window.
      min_examples: speakers with fewer windows are left out.
      seed: of the clients' splits.
      test_fraction: share of each client's windows that it is tested on.
      validation_fraction: share of each client's windows that it may tune on.

    Returns:
      A `Federation` with x and y int32 `[E, T]`, y one character ahead of x; 66 classes;
      `meta["client_names"]` are the speakers.

    Raises:
      InputError: no speaker says enough, or the file is neither there nor to be had.

    Reference: A. Karpathy, "The Unreasonable Effectiveness of Recurrent Neural Networks",
    2015 (the text); S. Caldas et al., "LEAF", 2018, arXiv:1812.01097 (speakers as clients).
    """
    sequence_length = integer("sequence_length", sequence_length, least=1)
    min_examples = integer("min_examples", min_examples, least=1)
    path = locate(_SOURCE)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), str(error), "must be readable UTF-8 text") from error
    said = speeches(text)
    cut = {name: windows(encode(speech), sequence_length) for name, speech in said.items()}
    kept = {name: pair for name, pair in cut.items() if len(pair[0]) >= min_examples}
    if not kept:
        most = max((len(x) for x, _ in cut.values()), default=0)
        remedy = f"no speaker has as many windows of {sequence_length}; the most is {most}"
        raise InputError("min_examples", min_examples, remedy)
    return from_arrays(
        np.concatenate([x for x, _ in kept.values()]),
        np.concatenate([y for _, y in kept.values()]),
        natural(np.repeat(list(kept), [len(x) for x, _ in kept.values()])),
        seed=seed,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        n_classes=len(VOCABULARY) + 1,
        name="shakespeare",
        meta={"vocabulary": VOCABULARY},
    )
