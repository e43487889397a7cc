"""Programs are kept on disk while a run lasts, and jax is then as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from experiment import little
from jax.experimental.compilation_cache import compilation_cache

from fedjax_sim.experiment.cache_dir import keeping_programs, use_compile_cache

FOLDER, LEAST = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As a user finds it: jax knows of no folder, and has compiled before."""
    before = {name: jax.config.values[name] for name in (FOLDER, LEAST)}
    monkeypatch.setenv("FEDJAX_SIM_CACHE", str(tmp_path / "cache"))
    jax.config.update(FOLDER, None)
    compilation_cache.reset_cache()
    jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
    yield tmp_path / "cache" / "xla"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def programs(folder: Path) -> set[str]:
    return {p.name.split("-")[0] for p in folder.glob("*")}


def compiled(name: str) -> None:
    def f(x: Any) -> Any:
        return jnp.tanh(x) @ x

    f.__name__ = name
    jax.jit(f).lower(jnp.ones((7, 7))).compile()


def test_what_is_compiled_inside_is_kept(cache: Path) -> None:
    least = jax.config.values[LEAST]
    with keeping_programs():
        jax.config.update(LEAST, 0.0)
        compiled("inside")
    compiled("outside")
    assert {"jit_inside"} <= programs(cache) and "jit_outside" not in programs(cache)
    assert jax.config.values[FOLDER] is None and jax.config.values[LEAST] == least


def test_a_run_finds_the_program_of_the_run_before(cache: Path) -> None:
    whole = little.session().run()
    assert "jit_simulate" in programs(cache)
    files = {p.name: p.stat().st_size for p in cache.glob("jit_simulate*-cache")}
    little.assert_same(little.session().run(), whole)
    assert {p.name: p.stat().st_size for p in cache.glob("jit_simulate*-cache")} == files


def test_a_folder_of_the_users_own_stands(cache: Path, tmp_path: Path) -> None:
    jax.config.update(FOLDER, str(tmp_path / "own"))
    with keeping_programs():
        assert jax.config.values[FOLDER] == str(tmp_path / "own")
    assert jax.config.values[FOLDER] == str(tmp_path / "own") and not cache.exists()


def test_nothing_is_kept_where_jax_was_told_so(cache: Path) -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        with keeping_programs():
            assert jax.config.values[FOLDER] is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not cache.exists()


def test_an_error_leaves_jax_as_it_was(cache: Path) -> None:
    with pytest.raises(KeyError), keeping_programs():
        assert jax.config.values[FOLDER] == str(cache)
        raise KeyError
    assert jax.config.values[FOLDER] is None


def test_a_folder_that_cannot_be_made_is_done_without(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDJAX_SIM_CACHE", str(tmp_path / "file"))
    assert use_compile_cache() is None
    with keeping_programs():
        compiled("anywhere")
    assert jax.config.values[FOLDER] is None
