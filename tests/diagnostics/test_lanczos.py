"""Block Lanczos against NumPy's dense eigenvalues, and its bounds against the truth."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from fedjax_sim.core.checks import InputError
from fedjax_sim.diagnostics.lanczos import block_lanczos, dense, random_block
from fedjax_sim.diagnostics.spectrum import spectrum_of


@pytest.fixture(autouse=True)
def one_thread():
    """Small matrices beside other test processes: BLAS threads would wait for each other."""
    with threadpool_limits(1):
        yield


def symmetric(eigenvalues, seed=0):
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))[0]
    return (q * np.asarray(eigenvalues)) @ q.T


def hessian_like(n, seed=0):
    """A few outliers, a bulk around zero and negative ones: what networks have."""
    rng = np.random.default_rng(seed)
    bulk = rng.normal(size=n - 8) * 0.01
    return np.concatenate([bulk, [30.0, 12.0, 5.0, 3.0, 1.0, 0.5, -0.2, -0.4]])


@pytest.mark.parametrize("block", [1, 3, 8])
@pytest.mark.parametrize("n", [60, 700])
def test_extremes_equal_dense_ones_within_their_bounds(n, block):
    h = symmetric(hessian_like(n))
    truth = np.linalg.eigvalsh(h)
    found = block_lanczos(lambda v: v @ h, random_block(block, n, 1), steps=48 // block)
    for end in (0, -1):
        assert abs(found.values[end] - truth[end]) <= 1e-3 * abs(truth[end])
        assert abs(found.values[end] - truth[end]) <= found.errors[end] + 1e-13
        v = found.vector(end)
        np.testing.assert_allclose(v @ h @ v, found.values[end], rtol=1e-9)
    assert found.products == block * (48 // block)


def test_every_error_bound_holds_an_eigenvalue():
    h = symmetric(hessian_like(200, seed=3))
    truth = np.linalg.eigvalsh(h)
    found = block_lanczos(lambda v: v @ h, random_block(4, 200, 2), steps=6)
    apart = np.min(np.abs(truth[None] - found.values[:, None]), axis=1)
    assert (apart <= found.errors + 1e-12).all()
    assert found.errors.max() > 1e-4  # the run was stopped early: the bounds had work to do


def test_the_basis_stays_orthonormal():
    h = symmetric(np.geomspace(1e-8, 1e4, 300))
    found = block_lanczos(lambda v: v @ h, random_block(4, 300), steps=60)
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(len(found.basis)), atol=1e-13)


@pytest.mark.parametrize(
    ("eigenvalues", "distinct"), [([0.0] * 50, 1), ([1.0] * 25 + [-2.0] * 25, 2), ([3.0] * 50, 1)]
)
def test_an_invariant_space_ends_the_run_and_is_exact(eigenvalues, distinct):
    h = symmetric(eigenvalues)
    found = block_lanczos(lambda v: v @ h, random_block(4, 50), steps=9)
    assert found.exact and found.products == 4 * distinct
    np.testing.assert_allclose(np.unique(np.round(found.values, 9)), np.unique(eigenvalues))


def test_a_block_that_loses_rank_goes_on_with_what_is_left():
    """Rank 2 plus one eigenvalue of its own: blocks of four must shrink, not break."""
    values = np.zeros(40)
    values[:3] = [5.0, -1.0, 2.0]
    h = symmetric(values)
    found = block_lanczos(lambda v: v @ h, random_block(4, 40), steps=10)
    assert found.exact
    np.testing.assert_allclose(found.values[[0, -1]], [-1, 5], rtol=1e-12)
    np.testing.assert_allclose(found.values[-2], 2, rtol=1e-12)


def test_noise_of_the_products_is_seen_and_counted():
    """Products rounded to float32: the bound grows with the noise and still holds."""
    h = symmetric(hessian_like(300, seed=5))
    rng = np.random.default_rng(0)
    level = 1e-4

    def noisy(v):
        return v @ h + level * rng.normal(size=v.shape) / np.sqrt(300)

    found = block_lanczos(noisy, random_block(4, 300), steps=20, epsilon=1e-5)
    truth = np.linalg.eigvalsh(h)
    assert level / 10 < found.noise < 10 * level
    for end in (0, -1):
        assert abs(found.values[end] - truth[end]) <= found.errors[end] + found.noise


def test_all_steps_find_the_whole_spectrum():
    eigenvalues = np.linspace(-1, 2, 30)
    h = symmetric(eigenvalues)
    found = block_lanczos(lambda v: v @ h, random_block(4, 30), steps=100)
    np.testing.assert_allclose(found.values, eigenvalues, atol=1e-12)
    whole = dense(lambda v: v @ h, 30, block=7)
    np.testing.assert_allclose(whole.values, eigenvalues, atol=1e-12)
    assert whole.products == 35


def test_quadrature_integrates_polynomials_of_the_first_block_exactly():
    """Gauss: 5 blocks integrate powers up to 9 against the first block's own measure."""
    h, first = symmetric(hessian_like(120)), random_block(3, 120, 7)
    spectrum = spectrum_of(block_lanczos(lambda v: v @ h, first, steps=5))
    power = first
    for k in range(10):
        np.testing.assert_allclose(spectrum.moment(k), np.sum(power * first) / 3, rtol=1e-9)
        power = power @ h


def test_moments_scatter_around_the_traces_as_stated():
    """Haar blocks: mean trace(H^k)/P, deviation about `sqrt(2 / (b P)) rms(H^k)`."""
    n, block, seeds = 150, 5, 60
    h = symmetric(hessian_like(n, seed=9))
    for k in (1, 2):
        truth = np.trace(np.linalg.matrix_power(h, k)) / n
        spread = np.sqrt(2 * np.trace(np.linalg.matrix_power(h, 2 * k)) / n / (block * n))
        found = [
            spectrum_of(block_lanczos(lambda v: v @ h, random_block(block, n, s), steps=4)).moment(
                k
            )
            for s in range(seeds)
        ]
        assert abs(np.mean(found) - truth) < 4 * spread / np.sqrt(seeds)
        assert 0.6 * spread < np.std(found) < 1.4 * spread


def test_signs_count_what_is_certain():
    values = np.array([-1.0, -0.01, 0.0, 0.0, 2.0])
    whole = spectrum_of(dense(lambda v: v @ np.diag(values), 5, block=5))
    assert whole.signs(1e-3) == (2, 2, 1)
    assert whole.signs(0.1) == (1, 3, 1)
    h = symmetric(hessian_like(400))
    few = spectrum_of(block_lanczos(lambda v: v @ h, random_block(4, 400), steps=8))
    negative, flat, positive = few.signs(1e-3)
    truth = np.linalg.eigvalsh(h)
    assert negative + flat + positive == 400
    assert negative <= np.sum(truth < -1e-3) and positive <= np.sum(truth > 1e-3)


def test_a_basis_that_cannot_fit_is_refused_with_the_figure():
    class Wide(np.ndarray):
        pass

    first = np.broadcast_to(np.zeros(1), (8, 10**11)).view(Wide)
    with pytest.raises(InputError, match="GB"):
        block_lanczos(lambda v: v, first, steps=100)
