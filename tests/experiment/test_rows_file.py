"""Rows in a file: what a checkpoint keeps is never written over, and damage is seen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.rows_file import RowFile

N = 50
ROW = {
    "w": jax.ShapeDtypeStruct((40, 25), np.float32),
    "half": jax.ShapeDtypeStruct((3,), jnp.bfloat16),
    "none": jax.ShapeDtypeStruct((0, 4), np.float32),
    "n": jax.ShapeDtypeStruct((), np.int32),
}


def drawn(n: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(n, *s.shape)).astype(s.dtype)
        if s.dtype != np.int32
        else rng.integers(0, 99, (n, *s.shape)).astype(np.int32)
        for s in jax.tree.leaves(ROW)
    ]


def read(rows: RowFile, ids: Any) -> list[np.ndarray]:
    ids = np.asarray(ids)
    out = [np.zeros((len(ids), *s.shape), s.dtype) for s in jax.tree.leaves(ROW)]
    rows.read(ids, out, np.arange(len(ids)))
    return out


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def test_what_was_written_is_read_back_and_the_rest_costs_nothing(tmp_path: Path) -> None:
    rows = RowFile(ROW, 10**6, tmp_path / "rows")
    new, ids = drawn(3, 0), np.array([999_999, 0, 17])
    rows.write(ids, new, np.arange(3))
    assert same(read(rows, ids), new)
    assert np.flatnonzero(rows.written).tolist() == [0, 17, 999_999]
    assert os.path.getsize(tmp_path / "rows") < 4 * rows.row_bytes


def test_a_file_without_a_name_goes_with_its_object() -> None:
    rows, new = RowFile(ROW, N, None), drawn(2, 1)
    rows.write(np.array([3, 4]), new, np.arange(2))
    assert same(read(rows, [3, 4]), new)


def test_a_killed_run_finds_the_rows_of_its_checkpoint(tmp_path: Path) -> None:
    """Whatever is written after a checkpoint, by many rounds, the checkpoint's rows stay."""
    rng, truth = np.random.default_rng(0), drawn(N, 0)
    rows = RowFile(ROW, N, tmp_path / "rows", keep=2)
    kept: list[tuple[int, Any, list[np.ndarray]]] = []
    for round_index in range(1, 13):
        ids = rng.permutation(N)[:20]
        new = drawn(20, round_index)
        rows.write(ids, new, np.arange(20))
        for mine, value in zip(truth, new, strict=True):
            mine[ids] = value
        if round_index % 3 == 0:
            state = (round_index, rows.keep(round_index), [v.copy() for v in truth])
            kept = [*kept, state][-2:]
        for at, index, then in kept:  # as if the process had ended here
            again = RowFile(ROW, N, tmp_path / "rows", keep=2)
            again.restore(index, at)
            who = np.flatnonzero(again.written)
            assert same(read(again, who), [v[who] for v in then])
    size = os.path.getsize(tmp_path / "rows") / (-(-rows.row_bytes // 64) * 64)
    assert size <= 3 * N, "slots of checkpoints that are gone are used again"


def test_after_a_restore_older_checkpoints_stay_until_new_ones_replace_them(tmp_path: Path) -> None:
    rows, everyone = RowFile(ROW, N, tmp_path / "rows", keep=2), np.arange(N)
    first, second = drawn(N, 1), drawn(N, 2)
    rows.write(everyone, first, everyone)
    older = rows.keep(1)
    rows.write(everyone, second, everyone)
    newer = rows.keep(2)
    again = RowFile(ROW, N, tmp_path / "rows", keep=2)
    again.restore(newer, 2)
    again.write(everyone, drawn(N, 3), everyone)
    for index, value in ((older, first), (newer, second)):
        third = RowFile(ROW, N, tmp_path / "rows", keep=2)
        third.restore(index, 0)
        assert same(read(third, everyone), value)
    sizes = []
    for round_index in range(3, 9):
        again.keep(round_index)
        again.write(everyone, drawn(N, round_index), everyone)
        sizes.append(os.path.getsize(tmp_path / "rows"))
    assert sizes[-1] == sizes[-3], "the file does not grow for ever"


def test_a_checkpoint_of_the_same_round_twice_counts_once(tmp_path: Path) -> None:
    rows, everyone = RowFile(ROW, N, tmp_path / "rows", keep=2), np.arange(N)
    first = drawn(N, 1)
    rows.write(everyone, first, everyone)
    older = rows.keep(1)
    rows.write(everyone, drawn(N, 2), everyone)
    rows.keep(2)
    rows.keep(2)
    rows.write(everyone, drawn(N, 3), everyone)
    again = RowFile(ROW, N, tmp_path / "rows", keep=2)
    again.restore(older, 1)
    assert same(read(again, everyone), first)


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    rows, everyone = RowFile(ROW, N, path), np.arange(N)
    rows.write(everyone, drawn(N, 1), everyone)
    index = rows.keep(1)
    content = bytearray(path.read_bytes())
    content[7 * (-(-rows.row_bytes // 64) * 64) + 100] ^= 1
    path.write_bytes(content)
    again = RowFile(ROW, N, path)
    again.restore(index, 1)
    with pytest.raises(InputError, match="row of client 7"):
        read(again, everyone)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="too short"):
        RowFile(ROW, N, path).restore(index, 1)
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        RowFile(ROW, N, path).restore(index, 1)
