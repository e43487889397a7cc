"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 as federations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedjax_sim.data.build import from_arrays
from fedjax_sim.data.federated import Federation
from fedjax_sim.data.partition_base import Partition
from fedjax_sim.data.partition_labels import dirichlet
from fedjax_sim.data.readers import cifar
from fedjax_sim.data.readers.cache import Source, locate, user_file
from fedjax_sim.data.readers.idx import read_pair

_IDX_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
_FASHION_MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
_CIFAR_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
_MD5 = {
    "mnist": (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "fashion_mnist": (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    "cifar10": ("c32a1d4ab5d03f1284b67883e8d87530",),
    "cifar100": ("03b5dce01913d631647c71ecec9e9cb8",),
}


def _sources(folder: str, names: tuple[str, ...], mirrors: tuple[str, ...]) -> list[Source]:
    return [
        Source(folder, name, tuple(m + name for m in mirrors), f"md5:{md5}")
        for name, md5 in zip(names, _MD5[folder], strict=True)
    ]


def _locate_idx(source: Source) -> Path:
    """As `locate`, and the user's copy may be unpacked."""
    return user_file(source.folder, source.name.removesuffix(".gz")) or locate(source)


def _images(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    partition: Partition | None,
    *,
    image: bool,
    normalize: bool,
    **settings: Any,
) -> Federation:
    """Scale pixels `uint8 [n, h, w, c]` and build; the official test part is the central test."""
    scaled = [x.astype(np.float32) / np.float32(255) for x in (train[0], test[0])]
    if normalize:
        mean = scaled[0].mean((0, 1, 2), np.float64).astype(np.float32)
        std = scaled[0].std((0, 1, 2), np.float64).astype(np.float32)
        scaled = [(x - mean) / std for x in scaled]
        settings["meta"] = {"mean": mean, "std": std}
    if not image:
        scaled = [x.reshape(len(x), -1) for x in scaled]
    default = dirichlet(clients=100, alpha=0.3)
    partition = default if partition is None else partition
    return from_arrays(scaled[0], train[1], partition, test=(scaled[1], test[1]), **settings)


def _idx_federation(
    folder: str, mirrors: tuple[str, ...], partition: Partition | None, **settings: Any
) -> Federation:
    paths = [_locate_idx(s) for s in _sources(folder, _IDX_NAMES, mirrors)]
    train, test = read_pair(paths[0], paths[1]), read_pair(paths[2], paths[3])
    train, test = (train[0][..., None], train[1]), (test[0][..., None], test[1])
    return _images(train, test, partition, n_classes=10, name=folder, **settings)


def mnist(
    partition: Partition | None = None,
    *,
    seed: int = 0,
    image: bool = False,
    normalize: bool = False,
    test_fraction: float = 0.0,
    validation_fraction: float = 0.0,
) -> Federation:
    """70,000 handwritten digits of 28 x 28 pixels; the official test part is held centrally.

    Args:
      partition: who holds what; None is `dirichlet(clients=100, alpha=0.3)`.
      seed: of the partition and the clients' splits.
      image: x rows of shape `[28, 28, 1]` instead of `[784]`.
      normalize: subtract the training mean and divide by the training deviation (kept in
        `meta`); otherwise pixels lie in [0, 1].
      test_fraction: share of each client's examples that it is tested on.
      validation_fraction: share of each client's examples that it may tune on.

    Returns:
      A `Federation` with 10 classes.

    Raises:
      InputError: the four files are neither under `$FEDJAX_SIM_DATA/mnist` nor to be had.

    Reference: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten
    digits", CC BY-SA 3.0.
    """
    return _idx_federation(
        "mnist",
        _MNIST_MIRRORS,
        partition,
        seed=seed,
        image=image,
        normalize=normalize,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
    )


def fashion_mnist(
    partition: Partition | None = None,
    *,
    seed: int = 0,
    image: bool = False,
    normalize: bool = False,
    test_fraction: float = 0.0,
    validation_fraction: float = 0.0,
) -> Federation:
    """70,000 pictures of clothes of 28 x 28 pixels; the official test part is held centrally.

    Args:
      partition: as in `mnist`.
      seed: as in `mnist`.
      image: as in `mnist`.
      normalize: as in `mnist`.
      test_fraction: as in `mnist`.
      validation_fraction: as in `mnist`.

    Returns:
      A `Federation` with 10 classes. Files are looked for in the folder `fashion_mnist`.

    Reference: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", 2017, arXiv:1708.07747, MIT.
    """
    return _idx_federation(
        "fashion_mnist",
        _FASHION_MIRRORS,
        partition,
        seed=seed,
        image=image,
        normalize=normalize,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
    )


def _cifar_federation(
    folder: str,
    kind: cifar.CifarKind,
    column: int,
    partition: Partition | None,
    **settings: Any,
) -> Federation:
    archive = f"{folder.replace('cifar', 'cifar-')}-binary.tar.gz"
    path = user_file(folder, archive)
    own = user_file(folder, "")
    if path is None:
        unpacked = own is not None and any(own.rglob("*.bin"))
        path = own if unpacked else locate(_sources(folder, (archive,), _CIFAR_MIRRORS)[0])
    read = cifar.read_cifar(path, kind)  # type: ignore[arg-type]
    train, test = ((x, y[:, column]) for x, y in (read["train"], read["test"]))
    classes = kind.classes[column]
    return _images(train, test, partition, n_classes=classes, name=folder, **settings)


def cifar10(
    partition: Partition | None = None,
    *,
    seed: int = 0,
    image: bool = True,
    normalize: bool = False,
    test_fraction: float = 0.0,
    validation_fraction: float = 0.0,
) -> Federation:
    """60,000 colour pictures of 32 x 32 pixels; the official test part is held centrally.

    Args:
      partition: as in `mnist`.
      seed: as in `mnist`.
      image: x rows of shape `[32, 32, 3]`; False gives `[3072]`.
      normalize: as in `mnist`, for each colour.
      test_fraction: as in `mnist`.
      validation_fraction: as in `mnist`.

    Returns:
      A `Federation` with 10 classes. The archive `cifar-10-binary.tar.gz`, or its `.bin` files,
      are looked for in the folder `cifar10`.

    Reference: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    return _cifar_federation(
        "cifar10",
        cifar.CIFAR10,
        0,
        partition,
        seed=seed,
        image=image,
        normalize=normalize,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
    )


def cifar100(
    partition: Partition | None = None,
    *,
    seed: int = 0,
    image: bool = True,
    normalize: bool = False,
    coarse: bool = False,
    test_fraction: float = 0.0,
    validation_fraction: float = 0.0,
) -> Federation:
    """As `cifar10`, with 100 fine classes in 20 coarse ones.

    Args:
      partition: as in `mnist`.
      seed: as in `mnist`.
      image: as in `cifar10`.
      normalize: as in `cifar10`.
      coarse: learn the 20 coarse classes.
      test_fraction: as in `mnist`.
      validation_fraction: as in `mnist`.

    Returns:
      A `Federation` with 100 (or 20) classes. The archive `cifar-100-binary.tar.gz`, or its
      `.bin` files, are looked for in the folder `cifar100`.

    Reference: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    return _cifar_federation(
        "cifar100",
        cifar.CIFAR100,
        0 if coarse else 1,
        partition,
        seed=seed,
        image=image,
        normalize=normalize,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
    )
