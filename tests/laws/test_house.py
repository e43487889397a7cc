"""Laws of the house that no linter knows, read off the syntax trees of the package."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "fedjax_sim"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

LONGEST_FILE = 500
MAY_SHARD_MAP = ("engine/mesh.py",)
MAY_TOUCH_FILES = ("experiment/", "cli/", "data/readers/")

# Methods whose name alone says that a file is opened, written or removed.
FILE_METHODS = {
    *("open", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "rmdir", "unlink"),
    *("touch", "savetxt", "loadtxt", "genfromtxt", "savez", "savez_compressed", "memmap"),
    *("open_memmap", "fromfile", "tofile", "savefig", "load_file", "save_file", "makedirs"),
}
# Names too common to judge alone: only on these modules.
FILE_FUNCTIONS = {
    **{module: {"load", "save"} for module in ("np", "numpy", "jnp")},
    "os": {"remove", "rename", "replace", "listdir", "scandir", "walk", "removedirs", "truncate"},
}
FILE_MODULES = {"shutil", "tempfile", "zipfile", "tarfile", "gzip", "sqlite3", "mmap", "h5py"}
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

Finding = tuple[int, str]
Rule = Callable[[ast.Module], Iterator[Finding]]


def imported_modules(node: ast.AST) -> list[str]:
    """Top-level names of the modules that one import statement brings in."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.split(".")[0]]
    return []


def shard_map(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        words: list[str] = []
        if isinstance(node, ast.Name):
            words = [node.id]
        elif isinstance(node, ast.Attribute):
            words = [node.attr]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            words = [word for alias in node.names for word in alias.name.split(".")]
            words += (getattr(node, "module", None) or "").split(".")
        if "shard_map" in words:
            yield node.lineno, "shard_map belongs in engine/mesh.py alone"


def files_touched(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        for module in FILE_MODULES.intersection(imported_modules(node)):
            yield node.lineno, f"imports {module}: only experiment, cli, data/readers touch files"
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        by_name = isinstance(called, ast.Name) and called.id == "open"
        by_method = isinstance(called, ast.Attribute) and (
            called.attr in FILE_METHODS
            or (
                isinstance(called.value, ast.Name)
                and called.attr in FILE_FUNCTIONS.get(called.value.id, set())
            )
        )
        if by_name or by_method:
            what = ast.unparse(called)
            yield node.lineno, f"calls {what}: only experiment, cli, data/readers touch files"


def unsafe_loading(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        for module in UNSAFE_MODULES.intersection(imported_modules(node)):
            yield node.lineno, f"imports {module}, which runs what it reads"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            value = node.value
            if not (isinstance(value, ast.Constant) and value.value is False):
                yield value.lineno, "allow_pickle may only be False"


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(body: list[ast.stmt], within: str = "") -> Iterator[tuple[str, Definition]]:
    """Public functions and classes of a module, methods included, nested functions not."""
    for node in body:
        if isinstance(node, (ast.If, ast.Try)):
            yield from public([*node.body, *node.orelse], within)
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield within + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{within}{node.name}.")


def repeats_a_documented_name(node: Definition) -> bool:
    """Whether this is a setter or an overload, whose first definition has the docstring."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(d.split(".")[-1] in ("setter", "deleter", "overload") for d in decorators)


def documented(tree: ast.Module) -> Iterator[Finding]:
    for name, node in public(tree.body):
        if not ast.get_docstring(node) and not repeats_a_documented_name(node):
            yield node.lineno, f"{name} has no docstring"


def annotated(tree: ast.Module) -> Iterator[Finding]:
    for name, node in public(tree.body):
        if isinstance(node, ast.ClassDef):
            continue
        a = node.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        is_static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
        bound = arguments[:1] if "." in name and not is_static else []
        for argument in arguments[len(bound) :]:
            if argument.annotation is None:
                yield argument.lineno, f"{name}: argument {argument.arg} has no annotation"
        if node.returns is None:
            yield node.lineno, f"{name} has no return annotation"


def findings(rule: Rule, file: str) -> list[str]:
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"), filename=file)
    return [f"fedjax_sim/{file}:{line}: {text}" for line, text in rule(tree)]


def outside(exempt: tuple[str, ...]) -> list[str]:
    return [file for file in FILES if not file.startswith(exempt)]


def test_the_package_is_there() -> None:
    assert "core/contracts.py" in FILES


@pytest.mark.parametrize("file", outside(MAY_SHARD_MAP))
def test_shard_map_is_said_only_in_the_mesh(file: str) -> None:
    assert findings(shard_map, file) == []


@pytest.mark.parametrize("file", outside(MAY_TOUCH_FILES))
def test_files_are_touched_only_at_the_edges(file: str) -> None:
    assert findings(files_touched, file) == []


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_loaded_that_could_run(file: str) -> None:
    assert findings(unsafe_loading, file) == []


@pytest.mark.parametrize("file", FILES)
def test_no_file_is_longer_than_the_hard_cap(file: str) -> None:
    lines = len((PACKAGE / file).read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"fedjax_sim/{file} has {lines} lines: split it"


@pytest.mark.parametrize("file", FILES)
def test_every_public_name_is_documented(file: str) -> None:
    assert findings(documented, file) == []


@pytest.mark.parametrize("file", FILES)
def test_every_public_function_is_annotated(file: str) -> None:
    assert findings(annotated, file) == []


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (shard_map, "from jax import shard_map", "text = 'shard_map'"),
        (shard_map, "from jax.experimental.shard_map import f", "import jax"),
        (shard_map, "f = jax.shard_map(g)", "f = jax.vmap(g)"),
        (files_touched, "open('x')", "opened('x')"),
        (files_touched, "Path('x').read_text()", "batch.read(t)"),
        (files_touched, "np.load(x)", "state.load(x)"),
        (files_touched, "import tempfile", "import math"),
        (unsafe_loading, "import pickle", "from .pickle import f"),
        (unsafe_loading, "from pickle import loads", "import json"),
        (unsafe_loading, "np.load(x, allow_pickle=True)", "np.load(x, allow_pickle=False)"),
        (unsafe_loading, "np.load(x, allow_pickle=flag)", "np.load(x)"),
        (documented, "def f(): ...", "def f(): 'Said.'"),
        (documented, "class A:\n  'A.'\n  def f(self): ...", "def _f(): ..."),
        (annotated, "def f(a) -> int: ...", "def f(a: int) -> int: ..."),
        (annotated, "def f(a: int): ...", "def _f(a): ..."),
        (annotated, "def f(*, a=1) -> int: ...", "class A:\n  def f(self) -> int: ..."),
        (annotated, "class A:\n  @staticmethod\n  def f(a) -> int: ...", "f = lambda a: a"),
    ],
)
def test_each_rule_bites_where_it_should(rule: Rule, bad: str, good: str) -> None:
    assert len(list(rule(ast.parse(bad)))) == 1
    assert list(rule(ast.parse(good))) == []
