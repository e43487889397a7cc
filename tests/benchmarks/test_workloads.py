"""The workloads are what they are said to be: sizes, parameters, work, the same for everyone."""

from __future__ import annotations

import dataclasses
import gzip
import struct

import numpy as np
import pytest
from architectures import CNN_W1, parameters, perceptron, training_flops
from populations import Flat
from workloads import WORKLOADS, data_source, examples, flat, initial


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("W1-lin", 610),
        ("W1-mlp", 199_210),
        ("W1-cnn", 1_626_442),
        ("W2-E1", 1_663_370),
        ("W4", 1_663_370),
        ("W5", 330),
    ],
)
def test_parameters(name: str, count: int) -> None:
    workload = WORKLOADS[name]
    assert workload.parameters == count
    assert sum(w.size + b.size for w, b in initial(workload)) == count


@pytest.mark.parametrize(
    ("name", "steps"),
    [("W1-lin", 250), ("W1-mlp-B50", 50), ("W1-cnn", 250), ("W2-E1", 600), ("W2-E5", 3000)],
)
def test_steps_of_a_round(name: str, steps: int) -> None:
    assert WORKLOADS[name].steps == steps


def test_flops_by_hand() -> None:
    # Forward and weight gradient everywhere, input gradient only behind the first layer.
    assert training_flops(perceptron(60, 10)) == 2 * (600 + 600)
    mlp = 784 * 200 * 2 + 200 * 200 * 3 + 200 * 10 * 3
    assert training_flops(perceptron(784, 200, 200, 10)) == 2 * mlp
    first, second = 30 * 30 * 27 * 32, 28 * 28 * 288 * 64
    dense = 12_544 * 128 + 128 * 10
    assert training_flops(CNN_W1) == 2 * (2 * first + 3 * second + 3 * dense)
    assert WORKLOADS["W1-cnn"].gigaflop == pytest.approx(248.6, abs=0.05)
    assert parameters(CNN_W1) == 1_626_442


def test_ragged_sizes() -> None:
    sizes = WORKLOADS["W3-lin"].client_sizes()
    assert len(sizes) == 10_000
    assert (sizes.min(), sizes.max()) == (10, 5000)
    assert sizes.mean() == pytest.approx(162, abs=2)


def test_pfllib_sizes() -> None:
    sizes = WORKLOADS["W4"].client_sizes()
    assert len(sizes) == 20
    assert (sizes.min(), sizes.max()) == (374, 4641)
    assert sizes.max() / sizes.mean() == pytest.approx(1.77, abs=0.005)


def test_million() -> None:
    workload = WORKLOADS["W5"]
    sizes = workload.client_sizes()
    assert (len(sizes), sizes.min(), sizes.max()) == (1_000_000, 4, 16)
    assert (workload.cohort, workload.batch, workload.inputs) == (10_000, 4, (32,))


def test_windows_follow_one_another() -> None:
    workload = dataclasses.replace(WORKLOADS["W3-lin"], clients=50)
    data = flat(workload)
    assert data.offsets[0] == 0
    np.testing.assert_array_equal(np.diff(data.offsets), data.sizes[:-1])
    assert len(data.x) == len(data.y) == data.sizes.sum()
    assert data.x.dtype == np.float32
    assert data.y.dtype == np.int32


def test_a_pool_is_shared_and_never_overrun() -> None:
    workload = dataclasses.replace(WORKLOADS["W3-mlp"], clients=200, pool=6000)
    data = flat(workload)
    assert len(data.x) == 6000 < data.sizes.sum()
    assert (data.offsets + data.sizes).max() <= 6000


def test_equal_clients_come_as_a_table_of_the_flat_rows() -> None:
    workload = dataclasses.replace(WORKLOADS["W1-lin"], clients=7)
    x, y = examples(workload)
    data = flat(workload)
    assert x.shape == (7, 50, 60)
    np.testing.assert_array_equal(x[3, 2], data.x[3 * 50 + 2])
    np.testing.assert_array_equal(y[6], data.y[data.offsets[6] :])
    with pytest.raises(ValueError, match="flat"):
        examples(dataclasses.replace(WORKLOADS["W3-lin"], clients=3))


def test_examples_and_weights_never_change() -> None:
    workload = dataclasses.replace(WORKLOADS["W1-lin"], clients=2)
    first, again = flat(workload), flat(workload)
    np.testing.assert_array_equal(first.x, again.x)
    for (a, _), (b, zero) in zip(initial(workload), initial(workload), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not zero.any()


def test_the_classes_can_be_learnt_but_not_perfectly() -> None:
    """A fifth of the labels is wrong, so the nearest class mean is right on about 82 %."""
    workload = dataclasses.replace(WORKLOADS["W1-lin"], clients=200)
    data = flat(workload)
    means = np.stack([data.x[data.y == c].mean(0) for c in range(10)])
    distance = ((data.x[:, None] - means) ** 2).sum(-1)
    assert (distance.argmin(1) == data.y).mean() == pytest.approx(0.82, abs=0.03)


def test_mnist_where_it_is(tmp_path, monkeypatch) -> None:
    workload = dataclasses.replace(WORKLOADS["W2-E1"], clients=2, examples=3)
    monkeypatch.setenv("FEDJAX_SIM_DATA", str(tmp_path))
    assert data_source(workload) == "synthetic"
    made: Flat = flat(workload)
    assert made.x.shape == (6, 28, 28, 1)
    folder = tmp_path / "mnist"
    folder.mkdir()
    pixels = np.arange(4 * 784, dtype=np.uint32).astype(np.uint8).reshape(4, 784)
    pixels[:, 0] = [0, 1, 2, 3]
    head = struct.pack(">IIII", 2051, 4, 28, 28)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + pixels.tobytes()))
    labels = struct.pack(">II", 2049, 4) + bytes([0, 1, 2, 3])
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    read = flat(workload)
    assert data_source(workload) == "mnist"
    np.testing.assert_array_equal(np.rint(read.x[:, 0, 0, 0] * 255), read.y)  # rows kept whole
    assert sorted(read.y[:4]) == [0, 1, 2, 3]
