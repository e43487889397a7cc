"""Checkpoints: whole or refused, of this experiment or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiment import little
from sparing import few

import fedjax_sim as fs
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import checkpoint
from fedjax_sim.experiment.checkpoint import Position

POSITION = Position(25, 10, "ab", 1.5, 100, 120, 110, 2, 1, 10)


def state() -> dict[str, object]:
    return {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": (np.float64(0.1), jnp.ones(2, jnp.bfloat16), np.zeros((0, 3), np.int32)),
        "key": jax.random.key(3),
        "none": None,
    }


def shapes() -> object:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state())


def save(folder: Path, *, round_: int = 25, keep: int = 2) -> Path:
    position = Position(**{**vars(POSITION), "round": round_})
    return checkpoint.save(folder, state(), position, "me", keep=keep)


def test_a_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    path = save(tmp_path / "c")
    found = checkpoint.newest(tmp_path / "c", "me")
    assert found == (path, POSITION)
    back, want = checkpoint.restore(path, shapes()), state()
    assert jax.tree.structure(back) == jax.tree.structure(want)
    for name, a in checkpoint.to_arrays(want).items():
        b = checkpoint.to_arrays(back)[name]
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def test_only_the_newest_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    (tmp_path / ".tmp-round_000001-9").mkdir()
    for round_ in (1, 2, 999_999, 1_000_000):
        save(tmp_path, round_=round_)
    checkpoint.clean(tmp_path)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["round_999999", "round_1000000"]
    assert len(list(tmp_path.iterdir())) == 2


def test_any_altered_missing_or_extra_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path)
    checked = 0
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        whole = file.read_bytes()
        for at in {0, len(whole) // 2, len(whole) - 1}:
            bad = bytearray(whole)
            bad[at] ^= 1 << (at % 8)
            file.write_bytes(bad)
            with pytest.raises(InputError, match="delete this checkpoint folder") as caught:
                checkpoint.newest(tmp_path, "me")
            assert file.name in str(caught.value)
            checked += 1
        file.unlink()
        with pytest.raises(InputError, match="is missing"):
            checkpoint.newest(tmp_path, "me")
        file.write_bytes(whole)
    assert checked > 15
    for extra in ("state/more", ".hidden"):
        (path / extra).write_text("")
        with pytest.raises(InputError, match="does not belong"):
            checkpoint.newest(tmp_path, "me")
        (path / extra).unlink()
    assert checkpoint.newest(tmp_path, "me") is not None


def test_another_state_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path)
    other = {**shapes(), "a": jax.ShapeDtypeStruct((3, 2), np.float32)}  # type: ignore[dict-item]
    with pytest.raises(InputError, match="must be float32"):
        checkpoint.restore(path, other)
    with pytest.raises(InputError, match="another state"):
        checkpoint.restore(path, {"a": jax.ShapeDtypeStruct((2, 3), np.float32)})


CHANGES = {
    "seed": {"seed": 1},
    "data": {"federation": little.federation(seed=1)},
    "recipe": {"recipe": fs.algorithms.fedavg(optax.sgd(0.05), batch_size=2)},
    "rounds": {"rounds": 5},
}


@pytest.mark.parametrize("changed", few([list(CHANGES), ["data", "recipe"]], ["data", "recipe"]))
def test_another_experiment_is_refused(tmp_path: Path, changed: list[str]) -> None:
    out = tmp_path / "run"
    little.session(out, rounds=4).run()
    (out / "summary.json").unlink()
    for change in (CHANGES[name] for name in changed):
        with pytest.raises(InputError, match="another experiment"):
            little.session(out, resume=True, **{"rounds": 4, **change})
    with pytest.raises(InputError, match="resume keeps the plan"):
        little.session(out, resume=True, rounds=4, lanes=2)
    config = out / "config.toml"
    config.write_text(config.read_text() + "# changed\n")
    with pytest.raises(InputError, match="another experiment"):
        little.session(out, resume=True, rounds=4)


def test_a_damaged_newest_checkpoint_can_be_deleted_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = little.session(out).run()
    shutil.rmtree(out / "final")
    (out / "summary.json").unlink()
    newest = checkpoint.complete(out / "checkpoints")[-1]
    (newest / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="delete this checkpoint folder"):
        little.session(out, resume=True)
    shutil.rmtree(newest)
    again = little.session(out, resume=True).run()
    assert again.resumed_from == 12
    little.assert_same(again, whole)
