"""The README's library example runs as it is printed, and reaches what the tool promises."""

import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_library_examples_train():
    source, policy, groups = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    space = {}
    exec(compile(source, "README.md", "exec"), space)
    run, fed = space["run"], space["fed"]
    x, y = fed.central_test
    accuracy = np.mean(np.argmax(run.predict(x), axis=-1) == y)
    np.testing.assert_allclose(run.records[-1]["test_accuracy"], accuracy, atol=1e-6)
    assert accuracy >= 0.9
    assert [r["round"] for r in run.records] == list(range(1, 101))
    exec(compile(policy, "README.md", "exec"), space)
    again = space["run"]
    assert again is not run and again.status in ("done", "stopped")
    assert again.summary["verdict"]["name"] in ("converged", "converging")
    assert again.status == "stopped" or len(again.records) == 200
    exec(compile(groups, "README.md", "exec"), space)
    last = space["run"].records[-1]
    assert last["group_ari"] == 1.0 and last["client_accuracy_mean"] > 0.85
