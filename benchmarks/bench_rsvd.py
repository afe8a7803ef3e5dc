"""rsvd against scikit-learn, fbpca and torch, and against the flops and bytes of its passes.

Every party's error is computed from its factors, and is in the table beside its time: the relative
excess over the best rank-k error, sqrt(||A - U S V||_F^2 / sum_{j>k} s_j^2) - 1.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse

import lowla
from benchmarks.limits import Limits
from benchmarks.measure import ChildProcess, Party, interleave, peak_memory
from benchmarks.session import Row, Session

Factors = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Case:
    """A matrix, its rank, and the optimal error (from the spectrum it was built with)."""

    name: str
    A: np.ndarray | scipy.sparse.csr_array
    k: int
    best: float
    dtype: str

    @property
    def norm2(self) -> float:
        data = self.A.data if scipy.sparse.issparse(self.A) else self.A
        return float(np.sum(np.asarray(data, np.float64).ravel() ** 2))

    def excess(self, factors: Factors) -> float:
        """Relative excess of the Frobenius error over the best one."""
        U, S, Vh = (np.asarray(x, np.float64) for x in factors)
        if scipy.sparse.issparse(self.A):
            # ||A - USV||^2 = ||A||^2 - 2 <A V^T, U S> + ||(R_u S) R_v^T||^2, U and V as they are
            cross = np.sum((self.A.astype(np.float64) @ Vh.T) * (U * S))
            gram = (S[:, None] * (U.T @ U) * S) * (Vh @ Vh.T)
            error2 = self.norm2 - 2 * cross + gram.sum()
        else:
            error2 = 0.0
            for i in range(0, len(self.A), 2000):
                rows = self.A[i : i + 2000].astype(np.float64) - (U[i : i + 2000] * S) @ Vh
                error2 += float(np.sum(rows**2))
        return float(np.sqrt(error2)) / self.best - 1


def _dense(m: int, n: int, k: int, decay: str, dtype: str) -> Case:
    j = np.arange(n)
    S = 1.0 / (j + 1) if decay == "polynomial" else np.exp(-j / (k / 2))
    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.standard_normal((m, n)))[0]
    V = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A = np.ascontiguousarray(((U * S) @ V.T).astype(dtype))
    return Case(f"{m}x{n} k={k} {decay}", A, k, float(np.linalg.norm(S[k:])), dtype)


def _sparse(m: int, n: int, nnz: int, k: int, dtype: str) -> Case:
    """Columns drawn from a power law, as words and items are."""
    rng = np.random.default_rng(0)
    weights = 1.0 / np.arange(1, n + 1) ** 0.7
    cols = rng.choice(n, nnz, p=weights / weights.sum())
    rows = rng.integers(0, m, nnz)
    A = scipy.sparse.coo_array((rng.standard_normal(nnz), (rows, cols)), shape=(m, n)).tocsr()
    A.sum_duplicates()
    from scipy.sparse.linalg import svds

    S = svds(A, k, return_singular_vectors=False, random_state=0)
    best = float(np.sqrt(np.sum(A.data**2) - np.sum(S**2)))
    return Case(f"{m}x{n} CSR nnz={nnz:.0e} k={k}", A.astype(dtype), k, best, dtype)


def torch_svd_lowrank(path: str, k: int, niter: int, sparse: bool, keep: bool) -> object:
    """In the child process: torch.svd_lowrank of the matrix stored at `path`."""
    import torch

    if path not in _torch_cache:
        _torch_cache.clear()
        if sparse:
            A = scipy.sparse.load_npz(path).tocoo()
            index = torch.from_numpy(np.vstack([A.row, A.col]).astype(np.int64))
            _torch_cache[path] = torch.sparse_coo_tensor(
                index, torch.from_numpy(A.data), A.shape
            ).coalesce()
        else:
            _torch_cache[path] = torch.from_numpy(np.load(path))
        torch.svd_lowrank(_torch_cache[path], q=k + 10, niter=niter)
    torch.manual_seed(0)
    A = _torch_cache[path]
    if A.ndim == 3:
        for i, M in enumerate(A):
            factors = torch.svd_lowrank(M, q=k + 10, niter=niter)
            if i == 0:
                U, S, V = factors
    else:
        U, S, V = torch.svd_lowrank(A, q=k + 10, niter=niter)
    return (U[:, :k].numpy(), S[:k].numpy(), V[:, :k].T.numpy()) if keep else None


_torch_cache: dict[str, object] = {}


def _child_party(name: str, child: ChildProcess, case: Case, path: Path, sparse: bool) -> Party:
    request = {"path": str(path), "k": case.k, "niter": 2, "sparse": sparse}
    child.call(**request, keep=False)
    factors = child.call(**request, keep=True)[1]
    return Party(name, lambda: child.call(**request, keep=False)[0], case.excess(factors))


def _party(name: str, case: Case, solve: Callable[[], Factors]) -> Party:
    return Party(name, solve, case.excess(solve()))


def _limit(case: Case, limits: Limits, info: lowla._results.RsvdInfo) -> float:
    """Seconds for the passes that were used: each fused pass reads A once."""
    reads = info.iterations + 1
    block = info.basis // reads
    if scipy.sparse.issparse(case.A):
        A = case.A
        nbytes = A.data.nbytes + A.indices.nbytes + A.indptr.nbytes
        row = block * A.data.itemsize  # an entry gathers a row of X, reads and writes one of Z
        flops = 4.0 * A.nnz * block * reads + 2.0 * A.nnz * case.k
        moved = (nbytes + 3.0 * A.nnz * row) * reads + nbytes + A.nnz * case.k * A.data.itemsize
        return limits.seconds(flops, moved)
    m, n = case.A.shape
    flops = (4.0 * (reads - 1) + 2.0) * m * n * block
    return limits.seconds(flops, case.A.nbytes * reads)


def _shares(case: Case) -> dict[str, float]:
    """Shares of a call's time: passes over A, and orthonormalisation with the small problems."""
    from lowla import _native

    A = case.A
    payload = (A.indptr, A.indices, A.data, A.shape) if scipy.sparse.issparse(A) else A
    shares = []
    for _ in range(15):
        started = time.perf_counter()
        lowla.rsvd(A, case.k, rng=0)
        whole = time.perf_counter() - started
        _, products, small = _native._testing.timed_rsvd(payload, case.k)
        shares.append((products / whole, small / whole))
    passes, small_work = np.median(shares, axis=0)
    return {
        "passes over A": float(passes),
        "orthonormalisation, small problems": float(small_work),
    }


def _case(session: Session, case: Case, child: ChildProcess | None, folder: Path) -> None:
    from sklearn.utils.extmath import randomized_svd

    A, k = case.A, case.k
    sparse = scipy.sparse.issparse(A)
    ours = _party("lowla", case, lambda: tuple(lowla.rsvd(A, k, rng=0)))
    parties = [
        ours,
        _party("sklearn auto", case, lambda: randomized_svd(A, k, random_state=0)),
        _party("sklearn n_iter=2", case, lambda: randomized_svd(A, k, n_iter=2, random_state=0)),
    ]
    if sparse:  # nearer to the accuracy of n_iter=2 and niter=2 than the default
        fewer = _party("lowla n_iter=4", case, lambda: tuple(lowla.rsvd(A, k, n_iter=4, rng=0)))
        parties.insert(1, fewer)
    try:
        import fbpca

        parties.append(_party("fbpca", case, lambda: fbpca.pca(A, k, raw=True, n_iter=2, l=k + 10)))
    except ImportError:
        session.note("fbpca is not installed")
    stem = f"{case.name} {case.dtype}".replace(" ", "_")
    path = folder / (stem + (".npz" if sparse else ".npy"))
    if sparse:
        scipy.sparse.save_npz(path, scipy.sparse.csr_array(A), compressed=False)
    else:
        np.save(path, A)
    _memory(session, case, path)
    if child is not None:
        parties.append(_child_party("torch niter=2", child, case, path, sparse))
    limits = session.limits(case.dtype)
    interleave([*parties, *limits.probes()], session.repetitions)
    path.unlink()
    limit = _limit(case, limits, lowla.rsvd(A, k, rng=0).info)
    row = Row(f"{case.name} {case.dtype}", parties, limit, str(limits))
    row.extra.update(_shares(case))
    session.add("rsvd", row)


def _batched(session: Session, child: ChildProcess | None, folder: Path) -> None:
    count, n, k = 200, 512, 16
    rng = np.random.default_rng(0)
    stack = rng.standard_normal((count, n, n)) * (1.0 / np.arange(1, n + 1))
    best = float(np.linalg.norm(np.linalg.svd(stack[0], compute_uv=False)[k:]))
    for dtype in ("float64", "float32"):
        A = np.ascontiguousarray(stack.astype(dtype))
        one = Case("", A[0], k, best, dtype)  # the error shown is that of the first matrix

        def stacked(n_iter: object, A: np.ndarray = A) -> Factors:
            U, S, Vh = lowla.rsvd(A, k, n_iter=n_iter, rng=0)
            return U[0], S[0], Vh[0]

        def looped(A: np.ndarray = A) -> Factors:
            first, *_ = [tuple(lowla.rsvd(M, k, rng=0)) for M in A]
            return first

        parties = [
            _party("lowla, one call", one, lambda: stacked("auto")),
            _party("lowla n_iter=3", one, lambda: stacked(3)),
            _party("lowla, a loop", one, looped),
        ]
        if child is not None:
            path = folder / f"stack_{dtype}.npy"
            np.save(path, A)
            request = {"path": str(path), "k": k, "niter": 2, "sparse": False}
            child.call(**request, keep=False)
            factors = child.call(**request, keep=True)[1]
            parties.append(
                Party(
                    "torch, a loop",
                    lambda request=request: child.call(**request, keep=False)[0],
                    one.excess(factors),
                )
            )
        limits = session.limits(dtype)
        interleave([*parties, *limits.probes()], session.repetitions)
        limit = _limit(one, limits, lowla.rsvd(A[0], k, rng=0).info) * count
        case = f"{count} of {n}x{n} k={k} {dtype}"
        session.add("rsvd batched", Row(case, parties, limit, str(limits)))


def rsvd_memory(path: str, k: int) -> int:
    """In a fresh process: bytes of resident memory that one rsvd adds at its peak."""
    A = scipy.sparse.load_npz(path) if path.endswith(".npz") else np.load(path)
    lowla.rsvd(np.eye(200), 5, rng=0)  # everything is imported, the threads exist
    return peak_memory(lambda: lowla.rsvd(A, k, rng=0))


def _memory(session: Session, case: Case, path: Path) -> None:
    """The peak of additional memory beside 4 (m + n)(k + p) elements + 16 MiB."""
    m, n = case.A.shape
    allowed = 4 * (m + n) * (case.k + 10) * np.dtype(case.dtype).itemsize + (16 << 20)
    child = ChildProcess("benchmarks.bench_rsvd", "rsvd_memory")
    used = child.call(path=str(path), k=case.k)[1]
    child.close()
    session.note(
        f"memory {case.name} {case.dtype}: {used / 2**20:.1f} MiB beyond the input, "
        f"allowed {allowed / 2**20:.1f} MiB"
    )


def run(session: Session) -> None:
    """All cases of the family."""
    child = session.torch_process("benchmarks.bench_rsvd", "torch_svd_lowrank")
    dtypes = ("float64", "float32")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for m, n, k in ((4000, 2000, 50), (20000, 1000, 20)):
            for decay in ("polynomial", "exponential"):
                for dtype in dtypes:
                    case = _dense(m, n, k, decay, dtype)
                    _case(session, case, child, folder)
        for dtype in dtypes:
            case = _sparse(200_000, 20_000, 2_000_000, 20, dtype)
            _case(session, case, child, folder)
        _batched(session, child, folder)
    if child is not None:
        child.close()
