"""Programs are kept on disk while a run lasts, and jax is then as it was."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from experiment import little
from jax import monitoring
from jax.experimental.compilation_cache import compilation_cache

import fedjax_sim as fs
from fedjax_sim.experiment.cache_dir import FOLDER, LEAST, keeping_programs, use_compile_cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As a user finds it: jax knows of no folder, and has compiled before."""
    before = {name: jax.config.values[name] for name in (FOLDER, LEAST)}
    monkeypatch.setenv("FEDJAX_SIM_CACHE", str(tmp_path / "cache"))
    jax.config.update(FOLDER, None)
    jax.config.update(LEAST, 1.0)
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
    jax.config.update(LEAST, 0.0)
    with keeping_programs():
        compiled("inside")
        assert jax.config.values[LEAST] == 0.0
    assert jax.config.values[FOLDER] is None and jax.config.values[LEAST] == 0.0
    compiled("outside")
    assert "jit_inside" in programs(cache) and "jit_outside" not in programs(cache)


def test_a_folder_that_jax_once_had_is_not_ours(cache: Path, tmp_path: Path) -> None:
    jax.config.update(LEAST, 0.0)
    jax.config.update(FOLDER, str(tmp_path / "once"))
    compiled("before")
    jax.config.update(FOLDER, None)
    with keeping_programs():
        compiled("inside")
    assert "jit_inside" in programs(cache) and "jit_before" in programs(tmp_path / "once")


@pytest.fixture
def events() -> Iterator[list[str]]:
    """Names of what jax tells of itself."""
    told: list[str] = []

    def listen(event: str, **_: Any) -> None:
        told.append(event)

    monitoring.register_event_listener(listen)
    yield told
    monitoring.unregister_event_listener(listen)


def test_a_run_finds_the_programs_of_the_run_before(cache: Path, events: list[str]) -> None:
    whole = little.session().run()
    assert "jit_simulate" in programs(cache)
    kept = len(list(cache.glob("*-cache")))
    events.clear()
    little.assert_same(little.session().run(), whole)
    assert events.count("/jax/compilation_cache/cache_hits") == kept


@pytest.mark.parametrize("name", ["run", "sweep", "explain", "Session"])
def test_who_keeps_programs(cache: Path, name: str) -> None:
    seen: list[str | None] = []

    def build(**numbers: Any) -> Any:
        seen.append(jax.config.values[FOLDER])
        raise LookupError

    spy = little.recipe()._replace(build=build)
    with pytest.raises(LookupError):
        getattr(fs, name)(spy, little.quadratic(little.DIM), little.federation())
    assert seen == [str(cache)]
    assert jax.config.values[FOLDER] is None


def test_calls_in_two_threads_share_it(cache: Path) -> None:
    """The first to enter is the first to leave; the other's programs are kept all the same."""
    jax.config.update(LEAST, 0.0)
    entered, left = threading.Event(), threading.Event()

    def second() -> None:
        with keeping_programs():
            entered.set()
            assert left.wait(60)
            compiled("second")

    with ThreadPoolExecutor(1) as pool:
        with keeping_programs():
            other = pool.submit(second)
            assert entered.wait(60)
        left.set()
        other.result()
    assert "jit_second" in programs(cache)
    assert jax.config.values[FOLDER] is None and jax.config.values[LEAST] == 0.0


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


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_is_only_read_is_done_without(cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o500)
    with keeping_programs():
        assert jax.config.values[FOLDER] is None


def test_nobody_knows_a_home(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("FEDJAX_SIM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lost)
    with keeping_programs():
        assert jax.config.values[FOLDER] is None
