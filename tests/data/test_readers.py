"""File readers on small files that the tests make, and on the real ones where they are."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjax_sim import data as fd
from fedjax_sim.core.checks import InputError
from fedjax_sim.data import partition as P
from fedjax_sim.data.readers.cifar import CIFAR10, parse_cifar, read_cifar
from fedjax_sim.data.readers.idx import parse_idx, read_idx, read_pair
from fedjax_sim.data.readers.leaf import read_leaf
from fedjax_sim.data.readers.text import UNKNOWN, VOCABULARY, decode, encode, speeches, windows


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    header = struct.pack(">BBBB", 0, 0, code, array.ndim)
    big = array.astype(array.dtype.newbyteorder(">"))
    return header + struct.pack(f">{array.ndim}I", *array.shape) + big.tobytes()


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("code", "dtype"), [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")]
)
def test_idx_reads_every_type(code: int, dtype: str) -> None:
    array = (IMAGES.astype(np.int64) * 5 - 60).astype(dtype)
    read = parse_idx(idx(array, code))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.dtype(dtype) and read.dtype.isnative


def test_idx_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    for name, content in (("plain.gz", idx(IMAGES)), ("packed", gzip.compress(idx(IMAGES)))):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_idx(tmp_path / name), IMAGES)


GOOD = idx(IMAGES)
BAD_IDX = [
    (b"", "is no IDX file"),
    (b"\x01" + GOOD[1:], "is no IDX file"),
    (GOOD[:2] + b"\x07" + GOOD[3:], "is no IDX file"),
    (GOOD[:7], "the header is cut"),
    (GOOD[:3] + b"\x00", "the header is cut"),
    (GOOD[:-1], "is truncated: shape (2, 3, 4) of uint8 needs exactly 40 bytes"),
    (GOOD + b"x", "has bytes after its end"),
    (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "is truncated"),
    (gzip.compress(GOOD, mtime=0)[:-5], "must be a readable, undamaged file"),
]


@pytest.mark.parametrize(("content", "message"), BAD_IDX, ids=range(len(BAD_IDX)))
def test_damaged_idx_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_idx(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_images_and_labels_must_fit_together(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(idx(IMAGES))
    (tmp_path / "y").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(InputError, match="one for each image"):
        read_pair(tmp_path / "x", tmp_path / "y")
    with pytest.raises(InputError, match=r"images must be uint8 \[n, h, w\]"):
        read_pair(tmp_path / "y", tmp_path / "y")
    with pytest.raises(InputError, match="No such file"):
        read_pair(tmp_path / "absent", tmp_path / "y")


def write_mnist(folder: Path, packed: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Forty training images (ten tests) as the four IDX files; the training set."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (50, 28, 28)).astype(np.uint8)
    y = (np.arange(50) % 10).astype(np.uint8)
    for part, rows in (("train", slice(0, 40)), ("t10k", slice(40, 50))):
        for name, array in (("images-idx3", x[rows]), ("labels-idx1", y[rows])):
            path = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return x[:40], y[:40]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_from_the_users_folder(
    name: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = write_mnist(tmp_path / name, packed)
    monkeypatch.setenv("FEDJAX_SIM_DATA", str(tmp_path))
    fed = getattr(fd, name)(P.natural(y), seed=1)
    assert fed.train.x.shape == (40, 784) and fed.n_classes == 10 and fed.name == name
    order = np.argsort(y, kind="stable")
    np.testing.assert_array_equal(fed.train.y, y[order])
    np.testing.assert_allclose(fed.train.x.reshape(-1, 28, 28) * 255, x[order], rtol=1e-6)
    assert fed.central_test is not None and fed.central_test[0].shape == (10, 784)
    normal = getattr(fd, name)(P.iid(4), image=True, normalize=True)
    assert normal.train.x.shape == (40, 28, 28, 1)
    assert abs(normal.train.x.mean()) < 1e-5 and normal.train.x.std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(normal.meta["mean"], x.mean() / 255, rtol=1e-5)


def cifar_bytes(count: int, classes: tuple[int, ...], seed: int) -> tuple[bytes, Any, Any]:
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, c, count) for c in classes], 1).astype(np.uint8)
    pixels = rng.integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)
    return np.concatenate([labels, pixels.reshape(count, -1)], 1).tobytes(), pixels, labels


def test_cifar_records_are_label_then_planes_of_red_green_blue() -> None:
    content, pixels, labels = cifar_bytes(3, (20, 100), 0)
    x, y = parse_cifar(content, (20, 100))
    np.testing.assert_array_equal(y, labels)
    for n, row, column, channel in np.ndindex(3, 2, 3, 3):
        assert x[n, row, column, channel] == pixels[n, channel, row, column]
    with pytest.raises(InputError, match="records are 3074 bytes long"):
        parse_cifar(content[:-1], (20, 100))
    with pytest.raises(InputError, match=r"labels in byte 0 must lie in 0 .. 9"):
        parse_cifar(b"\x0a" + bytes(3072), (10,))


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("packed", [True, False])
def test_cifar10_from_archive_or_folder(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cifar10"
    folder.mkdir()
    made = [cifar_bytes(4, (10,), i) for i in range(6)]
    names = [*CIFAR10.train, CIFAR10.test]
    if packed:
        with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
            for name, (content, _, _) in zip(names, made, strict=True):
                add(archive, f"cifar-10-batches-bin/{name}", content)
            add(archive, "../../outside.bin", b"never extracted")
    else:
        (folder / "cifar-10-batches-bin").mkdir()
        for name, (content, _, _) in zip(names, made, strict=True):
            (folder / "cifar-10-batches-bin" / name).write_bytes(content)
    monkeypatch.setenv("FEDJAX_SIM_DATA", str(tmp_path))
    fed = fd.cifar10(P.natural(np.arange(20)))
    pixels = np.concatenate([m[1] for m in made[:5]]).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(fed.train.x * 255, pixels, rtol=1e-6)
    np.testing.assert_array_equal(fed.train.y, np.concatenate([m[2] for m in made[:5]])[:, 0])
    assert fed.central_test is not None
    np.testing.assert_array_equal(fed.central_test[1], made[5][2][:, 0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cifar10"]


def test_cifar100_has_fine_and_coarse_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cifar100").mkdir()
    made = {name: cifar_bytes(5, (20, 100), i) for i, name in enumerate(["train.bin", "test.bin"])}
    for name, (content, _, _) in made.items():
        (tmp_path / "cifar100" / name).write_bytes(content)
    monkeypatch.setenv("FEDJAX_SIM_DATA", str(tmp_path))
    for coarse, column in ((True, 0), (False, 1)):
        fed = fd.cifar100(P.natural(np.arange(5)), coarse=coarse)
        np.testing.assert_array_equal(fed.train.y, made["train.bin"][2][:, column])
        assert fed.n_classes == (20 if coarse else 100)


def test_cifar_names_what_is_missing_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073))
    with pytest.raises(InputError, match=r"no data_batch_1\.bin, .*data_batch_5\.bin: must hold"):
        read_cifar(tmp_path, CIFAR10)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        add(archive, "x/data_batch_1.bin", np.random.default_rng(0).bytes(3073))
    with pytest.raises(InputError, match=r"no data_batch_2\.bin"):
        read_cifar(tmp_path / "a.tar.gz", CIFAR10)
    (tmp_path / "a.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:2000])
    with pytest.raises(InputError, match="undamaged tar archive"):
        read_cifar(tmp_path / "a.tar.gz", CIFAR10)


PLAY = """First Citizen:
Hear me speak.
He said this:
Nothing.

All:
Speak!

First Citizen:
No more

Nobody:

"""


def test_speeches_belong_to_their_speakers() -> None:
    said = {
        "First Citizen": "Hear me speak.\nHe said this:\nNothing.\nNo more\n",
        "All": "Speak!\n",
    }
    assert speeches(PLAY) == said
    assert speeches(PLAY.replace("\n", "\r\n")) == said
    with pytest.raises(InputError, match="must be NAME:"):
        speeches("A line without a speaker\n")


def test_characters_have_fixed_ids_and_windows_run_one_ahead() -> None:
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 65 and sorted(VOCABULARY) == list(VOCABULARY)
    assert decode(encode("To be, or\nnot!")) == "To be, or\nnot!"
    assert encode("\u00e9#").tolist() == [UNKNOWN, UNKNOWN] and decode([UNKNOWN]) == "\ufffd"
    x, y = windows(np.arange(11), 3)
    assert x.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]] and (y == x + 1).all()
    assert windows(np.arange(3), 3)[0].shape == (0, 3) and windows(np.arange(0), 3)[0].shape == (
        0,
        3,
    )


def test_shakespeare_on_a_small_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text(PLAY, encoding="utf-8")
    monkeypatch.setenv("FEDJAX_SIM_DATA", str(tmp_path))
    fed = fd.shakespeare(6, 1, test_fraction=0)
    assert fed.meta["client_names"].tolist() == ["All", "First Citizen"]
    assert (
        decode(fed.train.client(0)[0]) == "Speak!" and decode(fed.train.client(0)[1]) == "peak!\n"
    )
    assert decode(fed.train.client(1)[0]) == speeches(PLAY)["First Citizen"][:42]
    assert fed.n_classes == 66 and fed.train.y.dtype == np.int32
    assert fd.shakespeare(6, 2, test_fraction=0).n_clients == 1
    with pytest.raises(InputError, match="no speaker has as many windows of 6; the most is 7"):
        fd.shakespeare(6, 99)


def leaf_text(users: dict[str, tuple[Any, Any]], **change: Any) -> str:
    content = {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {u: {"x": x, "y": y} for u, (x, y) in users.items()},
    }
    return json.dumps({**content, **change})


def test_leaf_users_are_clients_and_test_users_are_matched_by_name(tmp_path: Path) -> None:
    train = {"u2": ([[1.0, 2.0], [3.0, 4.0]], [0.0, 2.0]), "u1": ([[5.0, 6.0]], [1.0])}
    (tmp_path / "train.json").write_text(leaf_text(train))
    (tmp_path / "test.json").write_text(leaf_text({"u2": ([[7.0, 8.0]], [2.0])}))
    fed = fd.leaf(str(tmp_path / "train.json"), str(tmp_path / "test.json"))
    assert fed.meta["client_names"].tolist() == ["u1", "u2"] and fed.n_classes == 3
    assert fed.train.x.tolist() == [[5, 6], [1, 2], [3, 4]] and fed.train.y.tolist() == [1, 0, 2]
    assert fed.test is not None and fed.test.sizes.tolist() == [0, 1]
    assert fed.test.client(1)[0].tolist() == [[7, 8]] and fed.central_test is None
    (tmp_path / "test.json").write_text(leaf_text({"u3": ([[7.0, 8.0]], [2.0])}))
    with pytest.raises(InputError, match="u3: is a user that the training files do not have"):
        fd.leaf(str(tmp_path / "train.json"), str(tmp_path / "test.json"))


USER = {"u": ([[1.0]], [0])}
BAD_LEAF = [
    ("{", "must be a readable JSON file"),
    ("[]", "LEAF JSON must hold users, num_samples, user_data"),
    (leaf_text(USER, num_samples=[2]), "num_samples says 2"),
    (leaf_text(USER, num_samples=[]), "must be 1, one a user"),
    (leaf_text(USER, user_data={}), "must hold x and y for every user"),
    (leaf_text({"u": ([[1.0], [1.0, 2.0]], [0, 1])}), "numbers of one shape"),
]


@pytest.mark.parametrize(("content", "message"), BAD_LEAF, ids=[m for _, m in BAD_LEAF])
def test_damaged_leaf_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError) as caught:
        read_leaf(tmp_path / "a.json")
    assert message in str(caught.value)


def test_real_mnist(data_dir: Path) -> None:
    if not (data_dir / "mnist" / "train-images-idx3-ubyte.gz").exists():
        pytest.skip(
            f"{data_dir / 'mnist'} lacks the IDX files; CONTRIBUTING.md says how to get them"
        )
    fed = fd.mnist(P.shards(100, 2))
    assert fed.central_test is not None
    official = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(fed.train.y).tolist() == official
    assert np.bincount(fed.central_test[1]).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    assert set(fed.train.sizes.tolist()) == {600}
    assert (fd.holdings_table(fed) > 0).sum(axis=1).max() <= 4
    # The mean and deviation that everybody normalises by.
    assert fed.train.x.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert fed.train.x.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)


def test_real_shakespeare(data_dir: Path) -> None:
    path = data_dir / "tinyshakespeare" / "input.txt"
    if not path.exists():
        pytest.skip(f"{path} is missing: it is karpathy/char-rnn's data/tinyshakespeare/input.txt")
    text = path.read_text(encoding="utf-8")
    assert "".join(sorted(set(text))) == VOCABULARY
    said = speeches(text)
    # Every character is a name line, an empty line, or in exactly one speech.
    names = sum(len(block.partition("\n")[0]) + 2 for block in text.split("\n\n"))
    assert sum(map(len, said.values())) == pytest.approx(len(text) - names, abs=len(said))
    fed = fd.shakespeare(test_fraction=0)
    assert (fed.train.x[:, 1:] == fed.train.y[:, :-1]).all() and fed.train.y.max() < UNKNOWN
    client = fed.meta["client_names"].tolist().index("ROMEO")
    x, _ = fed.train.client(client)
    assert decode(x) == said["ROMEO"][: x.size] and len(said["ROMEO"]) - x.size <= 80
