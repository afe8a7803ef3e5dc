"""Bad input: each case has its exact exception and message, on every backend."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

import lowla

A = np.random.default_rng(0).standard_normal((60, 40))
H = A.T @ A
SKETCHES = "'gaussian', 'rademacher', 'srht', 'countsketch', 'sjlt', 'sparse', 'uniform'"
STACK = np.broadcast_to(A, (3, 60, 40))


def _with(value, A=A):
    bad = A.copy()
    bad[3, 5] = value
    return bad


B = A[:, 0] + 1.0
T = np.ones((2, 3))
P = np.array([[2.0, 1.0], [1.0, 2.0]])
N = np.array([[3.0, 1.0], [0.0, 2.0]])
Q = np.ones((2, 3, 4))


W = np.full(3, 1 / 3)
C0 = np.random.default_rng(1).integers(0, 5, (3, 5)).astype(float)


def C_with(value, where=(1, 2)):
    bad = C0.copy()
    bad[where] = value
    return bad


S = sp.csr_array(([1.0, 2.0, 3.0], [0, 2, 1], [0, 1, 2, 3]), shape=(3, 4))
TWICE = sp.coo_array(([1.0, 2.0], ([1, 1], [2, 2])), shape=(3, 4))
NAN = np.full((3, 4), np.nan)


def S_with(value):
    bad = S.copy()
    bad.data[1] = value
    return bad


def _ones(queries, items):
    return np.ones((len(queries), len(items)))


class _MatmatOnly:
    """An operator without its adjoint."""

    shape, dtype = A.shape, A.dtype

    def matmat(self, X):
        return A @ X


def _stream(*blocks, k=3, n=40, rng=0):
    stream = lowla.StreamingSVD(k, n, rng=rng)
    for block in blocks:
        stream.partial_fit(block)
    return stream


VALUE = [
    # rsvd: k and tol
    (lambda: lowla.rsvd(A), "give k (the rank), tol (the relative error) or both"),
    (lambda: lowla.rsvd(A, 64), "k must be in 1..min(A.shape) = 40, got 64"),
    (lambda: lowla.rsvd(A, 0), "k must be in 1..min(A.shape) = 40, got 0"),
    (lambda: lowla.rsvd(A, -1), "k must be in 1..min(A.shape) = 40, got -1"),
    (lambda: lowla.rsvd(STACK, 41), "k must be in 1..min(A.shape[-2:]) = 40, got 41"),
    (lambda: lowla.rsvd(A[:0], 1), "k must be in 1..min(A.shape) = 0, got 1"),
    (lambda: lowla.rsvd(A[:, :0], 1), "k must be in 1..min(A.shape) = 0, got 1"),
    (lambda: lowla.rsvd(A, tol=0.0), "tol must be in (0, 1), got 0"),
    (lambda: lowla.rsvd(A, tol=1.0), "tol must be in (0, 1), got 1"),
    (lambda: lowla.rsvd(A, tol=-0.5), "tol must be in (0, 1), got -0.5"),
    (lambda: lowla.rsvd(A, tol=np.nan), "tol must be in (0, 1), got nan"),
    (
        lambda: lowla.rsvd(STACK, tol=0.1),
        "tol is for one matrix; a stack of shape (..., m, n) needs k",
    ),
    # rsvd: options
    (lambda: lowla.rsvd(A, 3, oversample=-1), "oversample must be at least 0, got -1"),
    (lambda: lowla.rsvd(A, 3, n_iter=-1), "n_iter must be at least 0, got -1"),
    (lambda: lowla.rsvd(A, 3, n_iter="many"), "n_iter must be an int or 'auto', got 'many'"),
    (
        lambda: lowla.rsvd(A, 3, method="power"),
        "method must be one of 'auto', 'krylov', 'subspace', 'single_pass', got 'power'",
    ),
    (
        lambda: lowla.rsvd(A, 3, sketch="srht"),
        "sketch must be one of 'auto', 'gaussian', 'sjlt', got 'srht'",
    ),
    (
        lambda: lowla.rsvd(A, 3, method="krylov", n_iter=0),
        "method='krylov' needs n_iter of at least 1, got 0 (n_iter=0 is method='subspace')",
    ),
    (
        lambda: lowla.rsvd(A, 3, method="single_pass", n_iter=2),
        "method='single_pass' reads A once: n_iter must be 0, got 2",
    ),
    (
        lambda: lowla.rsvd(A, tol=0.1, method="single_pass"),
        "method='single_pass' needs k: tol takes more than one read of A",
    ),
    (lambda: lowla.rsvd(A, 3, rng=-1), "rng must be a non-negative int, got -1"),
    # rsvd: the matrix
    (lambda: lowla.rsvd(A[0], 3), "A must have at least 2 dimensions, got shape (40,)"),
    (lambda: lowla.rsvd(3.0, 3), "A must have at least 2 dimensions, got shape ()"),
    (lambda: lowla.rsvd(_with(np.nan), 3), "A contains NaN or Inf"),
    (lambda: lowla.rsvd(_with(np.inf), 3), "A contains NaN or Inf"),
    (lambda: lowla.rsvd(_with(-np.inf).astype(np.float32), 3), "A contains NaN or Inf"),
    (lambda: lowla.rsvd(_with(np.nan) * 1j, 3), "A contains NaN or Inf"),
    (lambda: lowla.rsvd(_with(np.nan), tol=0.1), "A contains NaN or Inf"),
    (lambda: lowla.rsvd(_with(np.nan), 3, method="subspace"), "A contains NaN or Inf"),
    (lambda: lowla.rsvd(_with(np.nan), 3, method="single_pass"), "A contains NaN or Inf"),
    (lambda: lowla.rsvd(_with(np.inf)[None], 3), "A contains NaN or Inf"),
    (lambda: lowla.rsvd(sp.csr_array(_with(np.nan)), 3), "A contains NaN or Inf"),
    (lambda: lowla.rsvd(aslinearoperator(_with(np.nan)), 3), "A contains NaN or Inf"),
    (lambda: lowla.rsvd(np.full((4, 3), np.nan), 3), "A contains NaN or Inf"),
    # nystrom and reigh
    (lambda: lowla.nystrom(A, 3), "A must be square, got shape (60, 40)"),
    (lambda: lowla.reigh(A, 3), "A must be square, got shape (60, 40)"),
    (lambda: lowla.nystrom(H, 41), "k must be in 1..min(A.shape) = 40, got 41"),
    (lambda: lowla.reigh(H, 0), "k must be in 1..min(A.shape) = 40, got 0"),
    (lambda: lowla.reigh(H[None], 1), "A must have 2 dimensions, got shape (1, 40, 40)"),
    (lambda: lowla.reigh(H, 3, which="SM"), "which must be one of 'LM', 'LA', got 'SM'"),
    (lambda: lowla.nystrom(H, 3, oversample=-1), "oversample must be at least 0, got -1"),
    (lambda: lowla.reigh(H, 3, n_iter=-2), "n_iter must be at least 0, got -2"),
    (
        lambda: lowla.nystrom(np.array([[1.0, 0.5], [0.25, 1.0]]), 1),
        "A must be Hermitian, but |A - A^H| reaches 2.5e-01 (largest entry 1.0e+00)",
    ),
    (
        lambda: lowla.reigh(np.array([[1.0, 1j], [1j, 1.0]]), 1),
        "A must be Hermitian, but |A - A^H| reaches 2.0e+00 (largest entry 1.0e+00)",
    ),
    (lambda: lowla.nystrom(_with(np.nan, H), 3), "A contains NaN or Inf"),
    (lambda: lowla.reigh(_with(np.nan, H), 3), "A contains NaN or Inf"),
    (lambda: lowla.reigh(np.full((3, 3), np.inf), 3), "A contains NaN or Inf"),
    # StreamingSVD
    (lambda: lowla.StreamingSVD(0, 40), "k must be in 1..n = 40, got 0"),
    (lambda: lowla.StreamingSVD(41, 40), "k must be in 1..n = 40, got 41"),
    (lambda: lowla.StreamingSVD(1, 0), "n must be at least 1, got 0"),
    (lambda: _stream().result(), "no rows yet: call partial_fit before result"),
    (lambda: _stream(A[:2]).result(), "k = 3 needs at least 3 rows, got 2"),
    (lambda: _stream(A[:, :7]), "rows must have shape (r, 40), got (60, 7)"),
    (lambda: _stream(A[0]), "rows must have 2 dimensions, got shape (40,)"),
    (lambda: _stream(_with(np.nan)), "rows contains NaN or Inf"),
    (lambda: _stream(np.tile(_with(np.inf), (9, 1))), "rows contains NaN or Inf"),
    (
        lambda: _stream().merge(_stream(k=4)),
        "streams must have the same k and n, got (3, 40) and (4, 40)",
    ),
    (
        lambda: _stream(A).merge(_stream(A, rng=1)),
        "streams must be made with the same int rng to be merged",
    ),
    (
        lambda: _stream(A, rng=None).merge(_stream(A, rng=None)),
        "streams must be made with the same int rng to be merged",
    ),
    # sketch and sketch_operator
    (
        lambda: lowla.sketch_operator("dct", 3, 40),
        f"kind must be one of {SKETCHES}, got 'dct'",
    ),
    (lambda: lowla.sketch_operator("sjlt", 0, 40), "d must be at least 1, got 0"),
    (lambda: lowla.sketch_operator("sjlt", 3, 0), "n must be at least 1, got 0"),
    (
        lambda: lowla.sketch_operator("sjlt", 3, 40, nnz_per_col=0),
        "nnz_per_col must be at least 1, got 0",
    ),
    (
        lambda: lowla.sketch_operator("sjlt", 3, 40, density=0.1),
        "density is an option of kind 'sparse', not of 'sjlt', got 0.1",
    ),
    (
        lambda: lowla.sketch_operator("sparse", 3, 40, density=0.0),
        "density must be in (0, 1], got 0",
    ),
    (
        lambda: lowla.sketch_operator("sparse", 3, 40, density=1.5),
        "density must be in (0, 1], got 1.5",
    ),
    (
        lambda: lowla.sketch_operator("sparse", 3, 40, density=np.nan),
        "density must be in (0, 1], got nan",
    ),
    (
        lambda: lowla.sketch(A, 3, kind="dense"),
        f"kind must be one of {SKETCHES}, got 'dense'",
    ),
    (lambda: lowla.sketch(A, 0), "d must be at least 1, got 0"),
    (lambda: lowla.sketch(A, 3, axis=2), "axis must be 0 or 1, got 2"),
    (lambda: lowla.sketch(A[0], 3), "A must have 2 dimensions, got shape (40,)"),
    (
        lambda: lowla.sketch_operator("sjlt", 3, 41) @ A,
        "the right factor must have 41 rows, got shape (60, 40)",
    ),
    (
        lambda: lowla.sketch_operator("gaussian", 3, 40).tosparse(),
        "a sketch of kind 'gaussian' is dense: use toarray()",
    ),
    (
        lambda: lowla.sketch_operator("srht", 3, 40).tosparse(),
        "a sketch of kind 'srht' is dense: use toarray()",
    ),
    (
        lambda: lowla.sketch_operator("srht", 3, 40).T @ A,
        "the right factor must have 3 rows, got shape (60, 40)",
    ),
    # lstsq
    (lambda: lowla.lstsq(A, B[:50]), "b must have A.shape[0] = 60 rows, got (50,)"),
    (lambda: lowla.lstsq(A, A[None]), "b must have 1 or 2 dimensions, got shape (1, 60, 40)"),
    (lambda: lowla.lstsq(A, 3.0), "b must have 1 or 2 dimensions, got shape ()"),
    (lambda: lowla.lstsq(B, B), "A must have 2 dimensions, got shape (60,)"),
    (
        lambda: lowla.lstsq(A, B, method="qr"),
        "method must be one of 'auto', 'direct', 'precondition', 'sketch', got 'qr'",
    ),
    (lambda: lowla.lstsq(A, B, damp=-1.0), "damp must be a finite number >= 0, got -1"),
    (lambda: lowla.lstsq(A, B, damp=np.inf), "damp must be a finite number >= 0, got inf"),
    (lambda: lowla.lstsq(A, B, np.nan), "rcond must not be NaN"),
    (lambda: lowla.lstsq(A, B, tol=0.0), "tol must be in (0, 1), got 0"),
    (lambda: lowla.lstsq(A, B, max_iter=0), "max_iter must be at least 1, got 0"),
    (lambda: lowla.lstsq(A, B, eps=0.1), "eps is for method='sketch', got method='auto'"),
    (lambda: lowla.lstsq(A, B, method="sketch", eps=1.0), "eps must be in (0, 1), got 1"),
    (
        lambda: lowla.lstsq(A, B, guarantee="linf"),
        "guarantee='linf' is for method='sketch', got method='auto'",
    ),
    (
        lambda: lowla.lstsq(A, B, method="sketch", sketch="sjlt", guarantee="linf"),
        "guarantee='linf' needs a dense sketch, got sketch='sjlt'",
    ),
    (
        lambda: lowla.lstsq(A, B, method="sketch", guarantee="l2"),
        "guarantee must be one of 'linf', got 'l2'",
    ),
    (
        lambda: lowla.lstsq(sp.csr_array((10_000, 2000)), np.ones(10_000), method="direct"),
        "method='direct' would write out A, which is sparse, of shape (10000, 2000)",
    ),
    (lambda: lowla.lstsq(_with(np.nan), B), "A contains NaN or Inf"),
    (lambda: lowla.lstsq(_with(np.inf).T, A.T), "A contains NaN or Inf"),
    (lambda: lowla.lstsq(sp.csr_array(_with(np.nan)), B), "A contains NaN or Inf"),
    (lambda: lowla.lstsq(aslinearoperator(_with(np.nan)), B), "A contains NaN or Inf"),
    (lambda: lowla.lstsq(A, _with(np.nan)), "b contains NaN or Inf"),
    (lambda: lowla.lstsq(A, B - np.inf, method="precondition"), "b contains NaN or Inf"),
    # lp_regression
    (lambda: lowla.lp_regression(A, B, 0.5), "p must be at least 1 and finite, got 0.5"),
    (lambda: lowla.lp_regression(A, B, np.inf), "p must be at least 1 and finite, got inf"),
    (lambda: lowla.lp_regression(A, B, np.nan), "p must be at least 1 and finite, got nan"),
    (lambda: lowla.lp_regression(A, A, 1), "b must have 1 dimension, got shape (60, 40)"),
    (
        lambda: lowla.lp_regression(A, B, 1, method="irls"),
        "method must be one of 'auto', 'sample', 'exact', got 'irls'",
    ),
    (lambda: lowla.lp_regression(A, B, 1, eps=0.0), "eps must be in (0, 1), got 0"),
    (lambda: lowla.lp_regression(_with(np.nan), B, 1), "A contains NaN or Inf"),
    (lambda: lowla.lp_regression(A, B * np.inf, 1.5), "b contains NaN or Inf"),
    # sinkhorn
    (lambda: lowla.sinkhorn(None, None, C0, 0.0), "reg must be a finite number > 0, got 0"),
    (lambda: lowla.sinkhorn(None, None, C0, -1.0), "reg must be a finite number > 0, got -1"),
    (lambda: lowla.sinkhorn(None, None, C0, np.inf), "reg must be a finite number > 0, got inf"),
    (lambda: lowla.sinkhorn(None, None, C0, np.nan), "reg must be a finite number > 0, got nan"),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1e-16),
        "reg must be at least 1e-15 times the spread of the costs = 4, got 1e-16",
    ),
    (lambda: lowla.sinkhorn(None, None, C0[0], 1.0), "C must have 2 dimensions, got shape (5,)"),
    (
        lambda: lowla.sinkhorn(None, None, C0[:0], 1.0),
        "C must have at least one row and one column, got shape (0, 5)",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0[:, :0], 1.0),
        "C must have at least one row and one column, got shape (3, 0)",
    ),
    (lambda: lowla.sinkhorn(W[:2], None, C0, 1.0), "a must have shape (3,), got (2,)"),
    (lambda: lowla.sinkhorn(None, W, C0, 1.0), "b must have shape (5,), got (3,)"),
    (
        lambda: lowla.sinkhorn(W[:, None], None, C0, 1.0),
        "a must have 1 dimension, got shape (3, 1)",
    ),
    (
        lambda: lowla.sinkhorn([0.5, 0.6, -0.1], None, C0, 1.0),
        "a must be finite and at least 0, got a[2] = -0.1",
    ),
    (
        lambda: lowla.sinkhorn(None, [1, 0, np.nan, 0, 0], C0, 1.0),
        "b must be finite and at least 0, got b[2] = nan",
    ),
    (
        lambda: lowla.sinkhorn([np.inf, 1, 1], None, C0, 1.0),
        "a must be finite and at least 0, got a[0] = inf",
    ),
    (
        lambda: lowla.sinkhorn([0, 0, 0], None, C0, 1.0),
        "a must have a positive, finite sum, got 0",
    ),
    (
        lambda: lowla.sinkhorn([1e308] * 3, None, C0, 1.0),
        "a must have a positive, finite sum, got inf",
    ),
    (
        lambda: lowla.sinkhorn([0.5, 0.5, 0.5], None, C0, 1.0),
        "a and b must have equal sums, got 1.5 and 1",
    ),
    (lambda: lowla.sinkhorn(None, None, C_with(np.nan), 1.0), "C contains NaN or -inf"),
    (lambda: lowla.sinkhorn(None, None, C_with(-np.inf), 1.0), "C contains NaN or -inf"),
    (
        lambda: lowla.sinkhorn(None, None, C_with(np.inf, np.s_[1]), 1.0),
        "C must have a finite cost in every row of positive weight, got only inf in row 1",
    ),
    (
        lambda: lowla.sinkhorn([0.5, 0, 0.5], None, C_with(np.inf, np.s_[[0, 2], 3]), 1.0),
        "C must have a finite cost in every column of positive weight, got only inf in column 3",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C_with(1e300), 1e290),
        "costs must be at most 1e+290 in magnitude, got 1e+300",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0, method="log"),
        "method must be one of 'newton', 'sinkhorn', 'auto', got 'log'",
    ),
    (lambda: lowla.sinkhorn(None, None, C0, 1.0, tol=0.0), "tol must be in (0, 1), got 0"),
    (lambda: lowla.sinkhorn(None, None, C0, 1.0, max_iter=0), "max_iter must be at least 1, got 0"),
    (lambda: lowla.sinkhorn(None, None, C0, 1.0, warmup=-1), "warmup must be at least 0, got -1"),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0, warmup="long"),
        "warmup must be a number or 'auto', got 'long'",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0, sparsity=0.0),
        "sparsity must be in (0, 1], got 0",
    ),
    (lambda: lowla.sinkhorn(None, None, C0, 1.0, sparsity=2), "sparsity must be in (0, 1], got 2"),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0, sparsity="low"),
        "sparsity must be a number or 'auto', got 'low'",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0, init=(W, W)),
        "init g must have shape (5,), got (3,)",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0, init=(W * np.nan, C0[0])),
        "init f must be finite wherever the weight is positive",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0).plan_sparse(0.0),
        "threshold must be a finite number > 0, got 0",
    ),
    # sinkhorn_points, sinkhorn_divergence
    (
        lambda: lowla.sinkhorn_points(A, H, 1.0, metric="cosine"),
        "metric must be one of 'sqeuclidean', 'euclidean', 'cityblock', got 'cosine'",
    ),
    (
        lambda: lowla.sinkhorn_divergence(A, H, 1.0, metric="l2"),
        "metric must be one of 'sqeuclidean', 'euclidean', 'cityblock', got 'l2'",
    ),
    (lambda: lowla.sinkhorn_points(B, H, 1.0), "X must have 2 dimensions, got shape (60,)"),
    (
        lambda: lowla.sinkhorn_points(A, H[:, :3], 1.0),
        "X and Y must have points of one dimension, got 40 and 3",
    ),
    (
        lambda: lowla.sinkhorn_points(A, H[:0], 1.0),
        "Y must have at least one point, got shape (0, 40)",
    ),
    (lambda: lowla.sinkhorn_points(_with(np.nan), H, 1.0), "X contains NaN or Inf"),
    (lambda: lowla.sinkhorn_divergence(A, _with(np.inf, H), 1.0), "Y contains NaN or Inf"),
    (lambda: lowla.sinkhorn_points(A, H, -1.0), "reg must be a finite number > 0, got -1"),
    (
        lambda: lowla.sinkhorn_points(A, 1e200 * H, 1.0),
        "costs must be at most 1e+290 in magnitude, got inf",
    ),
    # logsumexp, softmax
    (lambda: lowla.logsumexp(A, axis=2), "axis must be in -2..1, got 2"),
    (lambda: lowla.softmax(A, axis=-3), "axis must be in -2..1, got -3"),
    (lambda: lowla.logsumexp(3.0), "X must have at least 1 dimension, got a scalar"),
    (lambda: lowla.softmax(3.0), "X must have at least 1 dimension, got a scalar"),
    # leverage_scores, lewis_weights, sensitivity_sample
    (
        lambda: lowla.leverage_scores(A, method="svd"),
        "method must be one of 'auto', 'exact', 'sketched', got 'svd'",
    ),
    (lambda: lowla.leverage_scores(B), "A must have 2 dimensions, got shape (60,)"),
    (lambda: lowla.leverage_scores(_with(np.nan)), "A contains NaN or Inf"),
    (lambda: lowla.lewis_weights(A, 0.0), "p must be at least 1 and finite, got 0"),
    (lambda: lowla.lewis_weights(A, 1.0, tol=1.0), "tol must be in (0, 1), got 1"),
    (lambda: lowla.lewis_weights(_with(np.inf), 1.0), "A contains NaN or Inf"),
    (lambda: lowla.sensitivity_sample(A, 0), "n_samples must be at least 1, got 0"),
    (lambda: lowla.sensitivity_sample(A, 3, p=0.9), "p must be at least 1 and finite, got 0.9"),
    (
        lambda: lowla.sensitivity_sample(A, 3, method="uniform"),
        "method must be one of 'leverage', 'root_leverage', 'lewis', 'sensitivity', 'mixed', "
        "got 'uniform'",
    ),
    (
        lambda: lowla.sensitivity_sample(0 * A, 3),
        "A must have a row that is not zero, got shape (60, 40)",
    ),
    (lambda: lowla.sensitivity_sample(_with(np.nan), 3), "A contains NaN or Inf"),
    # qrcp, interp_decomp, cur
    (lambda: lowla.qrcp(A), "give k (the number of columns), tol (the relative error) or both"),
    (lambda: lowla.cur(A), "give k (the number of columns), tol (the relative error) or both"),
    (lambda: lowla.qrcp(A, 41), "k must be in 1..min(A.shape) = 40, got 41"),
    (lambda: lowla.cur(A, 0), "k must be in 1..min(A.shape) = 40, got 0"),
    (lambda: lowla.cur(A[:0], 1), "k must be in 1..min(A.shape) = 0, got 1"),
    (lambda: lowla.qrcp(A, tol=1.0), "tol must be in (0, 1), got 1"),
    (lambda: lowla.cur(A, tol=np.nan), "tol must be in (0, 1), got nan"),
    (lambda: lowla.qrcp(A[0], 1), "A must have 2 dimensions, got shape (40,)"),
    (lambda: lowla.cur(STACK, 1), "A must have 2 dimensions, got shape (3, 60, 40)"),
    (lambda: lowla.qrcp(A, 3, oversample=-1), "oversample must be at least 0, got -1"),
    (lambda: lowla.cur(A, 3, oversample=-1), "oversample must be at least 0, got -1"),
    (
        lambda: lowla.cur(A, 30, oversample=31),
        "k + oversample must be at most A.shape[0] = 60, got 61",
    ),
    (
        lambda: lowla.cur(A, 30, oversample=11, method="leverage"),
        "k + oversample must be at most min(A.shape) = 40, got 41",
    ),
    (
        lambda: lowla.cur(A, tol=0.5, oversample=60),
        "k + oversample must be at most A.shape[0] = 60, got 61",
    ),
    (
        lambda: lowla.cur(A, 3, method="svd"),
        "method must be one of 'qrcp', 'deim', 'leverage', 'lupp', got 'svd'",
    ),
    (lambda: lowla.cur(A, 3, middle="pinv"), "middle must be one of 'lstsq', 'cross', got 'pinv'"),
    (
        lambda: lowla.cur(A, 3, sketch="srht"),
        "sketch must be one of 'auto', 'gaussian', 'sjlt', got 'srht'",
    ),
    (
        lambda: lowla.qrcp(A, 3, sketch="srht"),
        "sketch must be one of 'auto', 'gaussian', 'sjlt', got 'srht'",
    ),
    (
        lambda: lowla.interp_decomp(A, 41),
        "eps_or_k must be an int in 1..min(A.shape) = 40 or a float in (0, 1), got 41",
    ),
    (
        lambda: lowla.interp_decomp(A, 0),
        "eps_or_k must be an int in 1..min(A.shape) = 40 or a float in (0, 1), got 0",
    ),
    (
        lambda: lowla.interp_decomp(A, 2.0),
        "eps_or_k must be an int in 1..min(A.shape) = 40 or a float in (0, 1), got 2",
    ),
    (
        lambda: lowla.row_interp_decomp(A, np.nan),
        "eps_or_k must be an int in 1..min(A.shape) = 40 or a float in (0, 1), got nan",
    ),
    (
        lambda: lowla.two_sided_interp_decomp(A, -1),
        "eps_or_k must be an int in 1..min(A.shape) = 40 or a float in (0, 1), got -1",
    ),
    (
        lambda: lowla.interp_decomp(A, 3, bound=1.0),
        "bound must be a finite number > 1, got 1",
    ),
    (
        lambda: lowla.two_sided_interp_decomp(A, 3, bound=np.inf),
        "bound must be a finite number > 1, got inf",
    ),
    (
        lambda: lowla.interp_decomp(A, 0.1, method="sketch"),
        "method 'sketch' is for a number of columns; for a tolerance take 'project' or 'direct'",
    ),
    (
        lambda: lowla.interp_decomp(A, 3, method="srft"),
        "method must be one of 'auto', 'sketch', 'project', 'direct', got 'srft'",
    ),
    (
        lambda: lowla.interp_decomp(A, 3, sketch="srht"),
        "sketch must be one of 'auto', 'gaussian', 'sjlt', got 'srht'",
    ),
    (lambda: lowla.interp_decomp(A, 3, oversample=-2), "oversample must be at least 0, got -2"),
    (lambda: lowla.interp_decomp(A[0], 1), "A must have 2 dimensions, got shape (40,)"),
    (lambda: lowla.qrcp(_with(np.nan), 3), "A contains NaN or Inf"),
    (lambda: lowla.qrcp(_with(np.inf), tol=0.1), "A contains NaN or Inf"),
    (lambda: lowla.interp_decomp(_with(np.nan), 3), "A contains NaN or Inf"),
    (lambda: lowla.interp_decomp(_with(np.inf), 0.1, method="direct"), "A contains NaN or Inf"),
    (lambda: lowla.row_interp_decomp(sp.csr_array(_with(np.nan)), 3), "A contains NaN or Inf"),
    (lambda: lowla.two_sided_interp_decomp(_with(np.nan), 3), "A contains NaN or Inf"),
    (lambda: lowla.cur(_with(np.nan), 3), "A contains NaN or Inf"),
    (lambda: lowla.cur(sp.csr_array(_with(np.inf)), 3, method="deim"), "A contains NaN or Inf"),
    (
        lambda: lowla.cur(aslinearoperator(_with(np.nan)), 3, method="leverage"),
        "A contains NaN or Inf",
    ),
    (
        lambda: lowla.interp_decomp(A, 3, rng=0).skel(A.T),
        "A must have 40 columns, got shape (40, 60)",
    ),
    (
        lambda: lowla.two_sided_interp_decomp(A, 3, rng=0).skel(A.T),
        "A must have shape (60, 40), got (40, 60)",
    ),
    (
        lambda: lowla.cur(A, 3, rng=0) @ np.ones(60),
        "the right factor must have 40 rows, got shape (60,)",
    ),
    # cr_select, nystrom_columns
    (lambda: lowla.cr_select(A, A, 3), "B must have A.shape[1] = 40 rows, got shape (60, 40)"),
    (lambda: lowla.cr_select(A, B, 3), "B must have 2 dimensions, got shape (60,)"),
    (
        lambda: lowla.cr_select(A[:, :0], A[:0], 3),
        "A must have at least one column, got shape (60, 0)",
    ),
    (lambda: lowla.cr_select(A, A.T, 0), "k must be at least 1, got 0"),
    (
        lambda: lowla.cr_select(A, A.T, 41, method="top"),
        "k must be in 1..A.shape[1] = 40, got 41",
    ),
    (
        lambda: lowla.cr_select(A, A.T, 3, method="norm"),
        "method must be one of 'sample', 'top', got 'norm'",
    ),
    (lambda: lowla.cr_select(_with(np.nan), A.T, 3), "A contains NaN or Inf"),
    (lambda: lowla.cr_select(A, _with(np.inf).T, 3), "B contains NaN or Inf"),
    (lambda: lowla.nystrom_columns(A, 3), "K must be square, got shape (60, 40)"),
    (lambda: lowla.nystrom_columns(H, 41), "k must be in 1..n = 40, got 41"),
    (lambda: lowla.nystrom_columns(H, 0), "k must be in 1..n = 40, got 0"),
    (
        lambda: lowla.nystrom_columns(H, 3, method="kmeans"),
        "method must be one of 'rpcholesky', 'greedy', 'uniform', 'ridge_leverage', got 'kmeans'",
    ),
    (
        lambda: lowla.nystrom_columns(N, 1),
        "K must be Hermitian, but |K - K^H| reaches 1.0e+00 (largest entry 3.0e+00)",
    ),
    (
        lambda: lowla.nystrom_columns(-P, 1),
        "K must be positive semidefinite, but its diagonal holds -2 at 0",
    ),
    (
        lambda: lowla.nystrom_columns(H, 3, method="ridge_leverage"),
        "method='ridge_leverage' needs reg",
    ),
    (
        lambda: lowla.nystrom_columns(H, 3, reg=0.1),
        "method='rpcholesky' has no use for reg, got 0.1",
    ),
    (
        lambda: lowla.nystrom_columns(H, 3, method="ridge_leverage", reg=0.0),
        "reg must be a finite number > 0, got 0",
    ),
    (
        lambda: lowla.nystrom_columns(lambda rows, cols: H, 3),
        "diagonal is needed where K is a function",
    ),
    (
        lambda: lowla.nystrom_columns(H, 3, diagonal=np.diag(H)),
        "diagonal is for a K that is a function, got an array K",
    ),
    (
        lambda: lowla.nystrom_columns(lambda rows, cols: H, 3, diagonal=H),
        "diagonal must have 1 dimension, got shape (40, 40)",
    ),
    (
        lambda: lowla.nystrom_columns(
            lambda rows, cols: np.ones((2, 2)), 3, diagonal=np.ones(5), rng=0
        ),
        "K(rows, cols) must return shape (5, 5), got (2, 2)",
    ),
    (
        lambda: lowla.nystrom_columns(
            lambda rows, cols: np.full((len(rows), len(cols)), np.nan), 3, diagonal=np.ones(5)
        ),
        "K contains NaN or Inf",
    ),
    (lambda: lowla.nystrom_columns(_with(np.nan, H), 3), "K contains NaN or Inf"),
    # CURIndex
    (lambda: lowla.CURIndex(0), "n_items must be at least 1, got 0"),
    (lambda: lowla.CURIndex(5, n_anchors=6), "n_anchors must be in 1..n_items = 5, got 6"),
    (lambda: lowla.CURIndex(5, reg=0.0), "reg must be a finite number > 0, got 0"),
    (
        lambda: lowla.CURIndex(5).query(np.ones(2)),
        "the index has no anchor rows yet: call fit or fit_queries",
    ),
    (
        lambda: lowla.CURIndex(5).search([1]),
        "the index has no anchor rows yet: call fit or fit_queries",
    ),
    (lambda: lowla.CURIndex(5).fit_queries([1]), "the index was made without score"),
    (lambda: lowla.CURIndex(40).fit(A).search([1]), "the index was made without score"),
    (lambda: lowla.CURIndex(5).fit(A), "anchor_rows must have shape (r, 5), got (60, 40)"),
    (
        lambda: lowla.CURIndex(40).fit(A[:0]),
        "anchor_rows must have at least one row, got shape (0, 40)",
    ),
    (lambda: lowla.CURIndex(40).fit(_with(np.nan)), "anchor_rows contains NaN or Inf"),
    (
        lambda: lowla.CURIndex(40).fit(A).query(np.ones(3)),
        "anchor_scores must have shape (r, 12), got (1, 3)",
    ),
    (
        lambda: lowla.CURIndex(40).fit(A).query(np.full(12, np.nan)),
        "anchor_scores contains NaN or Inf",
    ),
    (
        lambda: lowla.CURIndex(40).fit(A).query(np.ones(12), 41),
        "k must be in 1..n_items = 40, got 41",
    ),
    (
        lambda: lowla.CURIndex(40, _ones).fit(A).search([1], 3, budget=11),
        "budget must be in len(anchors)..n_items = 12..40, got 11",
    ),
    (
        lambda: lowla.CURIndex(40, _ones).fit(A).search([1], 21, budget=20),
        "k must be in 1..budget = 20, got 21",
    ),
    (
        lambda: lowla.CURIndex(40, _ones).fit(A).search([1], rounds=0),
        "rounds must be at least 1, got 0",
    ),
    (
        lambda: lowla.CURIndex(40, _ones).fit(A).search([]),
        "queries must hold at least one query, got none",
    ),
    (
        lambda: lowla.CURIndex(40, lambda queries, items: P).fit(A).search([1]),
        "score(queries, items) must have shape (1, 12), got (2, 2)",
    ),
    (
        lambda: (
            lowla.CURIndex(40, lambda queries, items: np.nan * _ones(queries, items))
            .fit(A)
            .search([1])
        ),
        "score(queries, items) contains NaN or Inf",
    ),
    # kron_matmul, Kronecker, kron_solve, nearest_kron
    (
        lambda: lowla.kron_matmul([], np.ones(1)),
        "factors must hold at least one matrix, got none",
    ),
    (lowla.Kronecker, "factors must hold at least one matrix, got none"),
    (lambda: lowla.kron_solve([], np.ones(1)), "factors must hold at least one matrix, got none"),
    (
        lambda: lowla.kron_matmul([T, T[0]], np.ones(6)),
        "factors[1] must have 2 dimensions, got shape (3,)",
    ),
    (
        lambda: lowla.kron_matmul(T, np.ones(3)),
        "factors[0] must have 2 dimensions, got shape (3,)",
    ),
    (
        lambda: lowla.kron_matmul([T, T], np.ones(8)),
        "X must have prod(n_i) = 9 rows, got shape (8,)",
    ),
    (
        lambda: lowla.kron_matmul([T, T], np.ones((2, 9))),
        "X must have prod(n_i) = 9 rows, got shape (2, 9)",
    ),
    (
        lambda: lowla.kron_matmul([T], np.ones((3, 2, 2))),
        "X must have 1 or 2 dimensions, got shape (3, 2, 2)",
    ),
    (
        lambda: lowla.Kronecker(T, T) @ np.ones(4),
        "the right factor must have 9 rows, got shape (4, 1)",
    ),
    (
        lambda: lowla.Kronecker(T, T).T @ np.ones((9, 2)),
        "the right factor must have 4 rows, got shape (9, 2)",
    ),
    (
        lambda: lowla.Kronecker(P, T).solve(np.ones(4)),
        "solve needs square factors, factors[1] has shape (2, 3)",
    ),
    (
        lambda: lowla.Kronecker(T, T.T).solve(np.ones(6)),
        "solve needs square factors, factors[0] has shape (2, 3)",
    ),
    (
        lambda: lowla.Kronecker(T, T).inv(),
        "inv needs square factors, factors[0] has shape (2, 3)",
    ),
    (
        lambda: lowla.Kronecker(T, T).eigh(),
        "eigh needs square factors, factors[0] has shape (2, 3)",
    ),
    (
        lambda: lowla.kron_solve([P, T], np.ones(4)),
        "kron_solve needs square factors, factors[1] has shape (2, 3)",
    ),
    (
        lambda: lowla.Kronecker(T, T).logdet(),
        "logdet needs a square operator, got shape (4, 9)",
    ),
    (
        lambda: lowla.kron_solve([P, N], np.ones(4)),
        "factors[1] must be Hermitian, but |factors[1] - factors[1]^H| reaches 1.0e+00 "
        "(largest entry 3.0e+00)",
    ),
    (
        lambda: lowla.Kronecker(P, N).solve(np.ones(4), shift=1.0),
        "factors[1] must be Hermitian, but |factors[1] - factors[1]^H| reaches 1.0e+00 "
        "(largest entry 3.0e+00)",
    ),
    (
        lambda: lowla.Kronecker(1j * P).eigh(),
        "factors[0] must be Hermitian, but |factors[0] - factors[0]^H| reaches 4.0e+00 "
        "(largest entry 2.0e+00)",
    ),
    (
        lambda: lowla.Kronecker(T, T).solve(np.ones(4), shift=1.0),
        "solve with a shift needs square factors, factors[0] has shape (2, 3)",
    ),
    (lambda: lowla.kron_solve([P, P], np.ones(5)), "b must have 4 rows, got shape (5,)"),
    (
        lambda: lowla.Kronecker(P, P).solve(np.ones((4, 1, 1))),
        "b must have 1 or 2 dimensions, got shape (4, 1, 1)",
    ),
    (
        lambda: lowla.kron_solve([P, P], np.ones(4), np.nan),
        "shift must be a finite number, got nan",
    ),
    (
        lambda: lowla.Kronecker(P, P).solve(np.ones(4), shift=np.inf),
        "shift must be a finite number, got inf",
    ),
    (
        lambda: lowla.kron_solve([P, P * np.nan], np.ones(4)),
        "factors[1] contains NaN or Inf",
    ),
    (
        lambda: lowla.Kronecker(P * np.inf, P).solve(np.ones(4)),
        "factors[0] contains NaN or Inf",
    ),
    (lambda: lowla.Kronecker(P * np.inf, P).eigh(), "factors[0] contains NaN or Inf"),
    (lambda: lowla.kron_solve([P, P], np.full(4, np.nan)), "b contains NaN or Inf"),
    (lambda: lowla.Kronecker(P, P).solve(np.full(4, np.inf)), "b contains NaN or Inf"),
    (
        lambda: lowla.nearest_kron(A, (6, 5), (10, 7)),
        "A must have shape1 * shape2 = (60, 35), got shape (60, 40)",
    ),
    (lambda: lowla.nearest_kron(A, (6, 0), (10, 8)), "shape1[1] must be at least 1, got 0"),
    (
        lambda: lowla.nearest_kron(A, (6, 5), (10, 8), 31),
        "terms must be in 1..min(m1*n1, m2*n2) = 30, got 31",
    ),
    (
        lambda: lowla.nearest_kron(A, (6, 5), (10, 8), 0),
        "terms must be in 1..min(m1*n1, m2*n2) = 30, got 0",
    ),
    (
        lambda: lowla.nearest_kron(A[0], (6, 5), (10, 8)),
        "A must have 2 dimensions, got shape (40,)",
    ),
    (lambda: lowla.nearest_kron(_with(np.nan), (6, 5), (10, 8)), "A contains NaN or Inf"),
    # monarch_matmul, Monarch, monarch_project, monarch_dft, monarch_fft, fftconv
    (
        lambda: lowla.monarch_matmul(P, Q, np.ones(8)),
        "L must have 3 dimensions, got shape (2, 2)",
    ),
    (
        lambda: lowla.Monarch(Q, P),
        "R must have 3 dimensions, got shape (2, 2)",
    ),
    (
        lambda: lowla.Monarch(Q, np.ones((2, 3, 4))),
        "L (l, s, r) and R (k, q, p) must have k*q = l*r, got shapes (2, 3, 4) and (2, 3, 4)",
    ),
    (
        lambda: lowla.monarch_matmul(Q, Q.transpose(0, 2, 1), np.ones(8)),
        "X must have 6 rows, got shape (8,)",
    ),
    (
        lambda: lowla.monarch_matmul(Q, Q.transpose(0, 2, 1), np.ones((6, 1, 1))),
        "X must have 1 or 2 dimensions, got shape (6, 1, 1)",
    ),
    (
        lambda: lowla.Monarch(Q, np.ones((2, 4, 5))).T @ np.ones((10, 2)),
        "the right factor must have 6 rows, got shape (10, 2)",
    ),
    (
        lambda: lowla.Monarch(Q, np.ones((2, 4, 3))).solve(np.ones(6)),
        "solve needs square blocks, L has shape (2, 3, 4)",
    ),
    (
        lambda: lowla.Monarch(Q[:, :2, :2], np.ones((2, 2, 3))).solve(np.ones(4)),
        "solve needs square blocks, R has shape (2, 2, 3)",
    ),
    (lambda: lowla.monarch_dft(9).solve(np.ones(8)), "b must have 9 rows, got shape (8,)"),
    (
        lambda: lowla.monarch_dft(4).H.solve(np.ones((4, 1, 1))),
        "b must have 1 or 2 dimensions, got shape (4, 1, 1)",
    ),
    (
        lambda: lowla.Monarch(Q[:, :2, :2] * np.nan, Q[:, :2, :2]).solve(np.ones(4)),
        "L contains NaN or Inf",
    ),
    (
        lambda: lowla.Monarch(Q[:, :2, :2], Q[:, :2, :2] * np.inf).solve(np.ones(4)),
        "R contains NaN or Inf",
    ),
    (lambda: lowla.monarch_dft(4).solve(np.full(4, np.inf)), "b contains NaN or Inf"),
    (lambda: lowla.monarch_project(B), "W must have 2 dimensions, got shape (60,)"),
    (lambda: lowla.monarch_project(A[:0]), "W must not be empty, got shape (0, 40)"),
    (
        lambda: lowla.monarch_project(A, (7, 6)),
        "blocks = (k, l) must divide the columns and rows of W: got (7, 6) for shape (60, 40)",
    ),
    (
        lambda: lowla.monarch_project(A, (8, 8)),
        "blocks = (k, l) must divide the columns and rows of W: got (8, 8) for shape (60, 40)",
    ),
    (lambda: lowla.monarch_project(A, (0, 6)), "blocks[0] must be at least 1, got 0"),
    (lambda: lowla.monarch_project(_with(np.nan)), "W contains NaN or Inf"),
    (lambda: lowla.monarch_project(_with(np.nan) * 1j), "W contains NaN or Inf"),
    (lambda: lowla.monarch_dft(0), "n must be at least 1, got 0"),
    (lambda: lowla.fftconv(3.0, B), "u must have at least 1 dimension, got a scalar"),
    (lambda: lowla.fftconv(B, 3.0), "k must have at least 1 dimension, got a scalar"),
    (
        lambda: lowla.fftconv(A, A[:7]),
        "the leading axes of u and k must broadcast, got shapes (60, 40) and (7, 40)",
    ),
    (
        lambda: lowla.fftconv(A, B[:40], mask=np.ones((7, 3))),
        "the leading axes of u, k and mask must broadcast, got shapes (60, 40) and (40,) and "
        "(7, 3)",
    ),
    (
        lambda: lowla.fftconv(B, B, mask=np.ones((2, 0))),
        "mask must have at least 1 entry, got shape (2, 0)",
    ),
    (lambda: lowla.fftconv(B, B, mask=1.0), "mask must have at least 1 dimension, got a scalar"),
    (lambda: lowla.monarch_fft(B, 0), "n must be at least 1, got 0"),
    (
        lambda: lowla.monarch_fft(np.ones((3, 0)), 4),
        "the last axis of x must not be empty, got shape (3, 0)",
    ),
    (lambda: lowla.monarch_fft(1.0), "x must have at least 1 dimension, got a scalar"),
]

VALUE += [
    # complete
    (lambda: lowla.complete(S, 4), "k must be in 1..min(M.shape) = 3, got 4"),
    (lambda: lowla.complete(S, 0), "k must be in 1..min(M.shape) = 3, got 0"),
    (lambda: lowla.complete(S, "best"), "k must be an int or 'auto', got 'best'"),
    (lambda: lowla.complete(NAN, 1), "M must have at least one observed entry, got none"),
    (lambda: lowla.complete(0 * S[:0], 1), "M must have at least one observed entry, got none"),
    (
        lambda: lowla.complete(S, 1, weights=0.0 * S),
        "M must have at least one observed entry of positive weight, got none",
    ),
    (lambda: lowla.complete(B, 1), "M must have 2 dimensions, got shape (60,)"),
    (lambda: lowla.complete(sp.coo_array(B), 1), "M must have 2 dimensions, got shape (60,)"),
    (lambda: lowla.complete(_with(np.inf), 1), "M contains Inf"),
    (lambda: lowla.complete(S_with(np.inf), 1), "M contains NaN or Inf"),
    (lambda: lowla.complete(S_with(np.nan), 1), "M contains NaN or Inf"),
    (
        lambda: lowla.complete(np.ma.MaskedArray(_with(np.nan), A > 1.0), 1),
        "M contains NaN or Inf that is not masked",
    ),
    (
        lambda: lowla.complete(TWICE, 1),
        "M must have one value for an entry, got several for (1, 2): pass duplicates='mean' to "
        "average them",
    ),
    (
        lambda: lowla.complete(S, 1, duplicates="sum"),
        "duplicates must be one of 'error', 'mean', got 'sum'",
    ),
    (lambda: lowla.complete(S, 1, weights=A), "weights must have shape (3, 4), got (60, 40)"),
    (
        lambda: lowla.complete(S, 1, weights=S[:, ::-1]),
        "weights must have the shape and the stored entries of M",
    ),
    (
        lambda: lowla.complete(S, 1, weights=-1.0 * S),
        "weights must be finite and at least 0, got -1",
    ),
    (
        lambda: lowla.complete(S, 1, weights=np.full((3, 4), np.nan)),
        "weights must be finite and at least 0, got nan",
    ),
    (lambda: lowla.complete(S, 1, reg=-1.0), "reg must be a finite number >= 0, got -1"),
    (lambda: lowla.complete(S, 1, reg=np.inf), "reg must be a finite number >= 0, got inf"),
    (
        lambda: lowla.complete(S, 1, method="sgd"),
        "method must be one of 'altmin', 'scaled_gd', got 'sgd'",
    ),
    (lambda: lowla.complete(S, 1, loss="huber"), "loss must be one of 'l2', 'l1', got 'huber'"),
    (
        lambda: lowla.complete(S, 1, solver="lu"),
        "solver must be one of 'auto', 'exact', 'cg', got 'lu'",
    ),
    (
        lambda: lowla.complete(S, 1, method="scaled_gd", loss="l1"),
        "method='scaled_gd' does not go with loss='l1': use 'altmin'",
    ),
    (
        lambda: lowla.complete(S, 1, method="scaled_gd", bias=True),
        "method='scaled_gd' does not go with bias: use 'altmin'",
    ),
    (
        lambda: lowla.complete(S, 1, method="scaled_gd", nonnegative=True),
        "method='scaled_gd' does not go with nonnegative: use 'altmin'",
    ),
    (
        lambda: lowla.complete(S, 1, bias=True, nonnegative=True),
        "nonnegative does not go with bias",
    ),
    (
        lambda: lowla.complete(S * 1e100, 1, bias=True),
        "bias=True needs entries of M within 1e-60..1e60 in magnitude, got 3e+100",
    ),
    (lambda: lowla.complete(S, 1, holdout=1.0), "holdout must be in [0, 1), got 1"),
    (lambda: lowla.complete(S, 1, holdout=np.nan), "holdout must be in [0, 1), got nan"),
    (
        lambda: lowla.complete(S, 1, holdout=1e-9, rng=0),
        "holdout=1e-09 of 3 observations leaves none to hold out",
    ),
    (
        lambda: lowla.complete(S, 1, holdout=1 - 1e-9, rng=0),
        "holdout=1 of 3 observations leaves none to fit",
    ),
    (lambda: lowla.complete(S, 1, n_iter=0), "n_iter must be at least 1, got 0"),
    (lambda: lowla.complete(S, 1, tol=0.0), "tol must be in (0, 1), got 0"),
    (
        lambda: lowla.complete(S, 1, init="ones"),
        "init must be one of 'spectral', 'random', got 'ones'",
    ),
    (
        lambda: lowla.complete(S, 2, init=(np.ones((3, 2)), np.ones((3, 2)))),
        "init V must have shape (4, 2), got (3, 2)",
    ),
    (
        lambda: lowla.complete(S, 1, init=(np.full((3, 1), np.nan), np.ones((4, 1)))),
        "init U contains NaN or Inf",
    ),
    (
        lambda: lowla.complete(S, "auto", init=(np.ones((3, 2)), np.ones((4, 2)))),
        "k='auto' needs init='spectral' or 'random'",
    ),
    (lambda: lowla.complete(S, 1, rng=-1), "rng must be a non-negative int, got -1"),
    # soft_impute and svt
    (lambda: lowla.soft_impute(S, 0.0), "lam must be a finite number > 0, got 0"),
    (
        lambda: lowla.soft_impute(S, 1.0, rank_max=4),
        "rank_max must be in 1..min(M.shape) = 3, got 4",
    ),
    (lambda: lowla.soft_impute(S_with(np.nan), 1.0), "M contains NaN or Inf"),
    (lambda: lowla.soft_impute(NAN, 1.0), "M must have at least one observed entry, got none"),
    (lambda: lowla.soft_impute(S, 1.0, n_iter=0), "n_iter must be at least 1, got 0"),
    (lambda: lowla.soft_impute(S, 1.0, tol=1.0), "tol must be in (0, 1), got 1"),
    (
        lambda: lowla.soft_impute(S, 1.0, duplicates="sum"),
        "duplicates must be one of 'error', 'mean', got 'sum'",
    ),
    (lambda: lowla.svt(A, -1.0), "tau must be a finite number >= 0, got -1"),
    (lambda: lowla.svt(_with(np.nan), 1.0), "X contains NaN or Inf"),
]

TYPE = [
    # qrcp, interp_decomp, cur and their relatives
    (lambda: lowla.qrcp(A, 2.0), "k must be an int, got float"),
    (lambda: lowla.cur(A, True), "k must be an int, got bool"),
    (lambda: lowla.cur(A, tol="small"), "tol must be a float, got str"),
    (lambda: lowla.cur(A.astype(object), 3), "A must be numeric, got dtype object"),
    (
        lambda: lowla.interp_decomp(A, "all"),
        "eps_or_k must be an int in 1..min(A.shape) = 40 or a float in (0, 1), got str",
    ),
    (
        lambda: lowla.interp_decomp(A, True),
        "eps_or_k must be an int in 1..min(A.shape) = 40 or a float in (0, 1), got bool",
    ),
    (lambda: lowla.interp_decomp(A, 3, bound="two"), "bound must be a float, got str"),
    (lambda: lowla.cur(_MatmatOnly(), 3), "A needs rmatmat or rmatvec"),
    (lambda: lowla.qrcp(_MatmatOnly(), 3), "A needs rmatmat or rmatvec"),
    (lambda: lowla.row_interp_decomp(_MatmatOnly(), 3), "A needs rmatmat or rmatvec"),
    (
        lambda: lowla.cr_select(aslinearoperator(A), A.T, 3),
        "A must be an array or a sparse matrix, got a linear operator",
    ),
    (
        lambda: lowla.cr_select(A, aslinearoperator(A.T), 3),
        "B must be an array or a sparse matrix, got a linear operator",
    ),
    (lambda: lowla.cr_select(A, A.T, 1.5), "k must be an int, got float"),
    (lambda: lowla.nystrom_columns(sp.csr_array(H), 3), "K must be a dense array, got csr_array"),
    (lambda: lowla.nystrom_columns(H, None), "k must be an int, got NoneType"),
    (
        lambda: lowla.nystrom_columns(
            lambda rows, cols: np.ones((len(rows), len(cols))) * 1j, 3, diagonal=np.ones(5)
        ),
        "K has a real dtype, but K(rows, cols) returned a complex block",
    ),
    (lambda: lowla.CURIndex(5, score=3), "score must be callable, got int"),
    (lambda: lowla.CURIndex(5.0), "n_items must be an int, got float"),
    (lambda: lowla.CURIndex(5, n_anchors=2.0), "n_anchors must be an int, got float"),
    (lambda: lowla.CURIndex(40).fit(A * 1j), "anchor_rows must be real, got dtype complex128"),
    (
        lambda: (
            lowla.CURIndex(40, lambda queries, items: sp.csr_array(A[:1, :12])).fit(A).search([1])
        ),
        "score(queries, items) must be a dense array, got csr_array",
    ),
    # sinkhorn and its relatives
    (lambda: lowla.sinkhorn(None, None, C0, None), "reg must be a float, got NoneType"),
    (lambda: lowla.sinkhorn(None, None, C0 * 1j, 1.0), "C must be real, got dtype complex128"),
    (lambda: lowla.sinkhorn(W * 1j, None, C0, 1.0), "a must be real, got dtype complex128"),
    (
        lambda: lowla.sinkhorn(None, None, sp.csr_array(C0), 1.0),
        "C must be a dense array, got csr_array",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0.astype(object), 1.0),
        "C must be numeric, got dtype object",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0, warmup=1.5),
        "warmup must be an int, got float",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0, max_iter=1e4),
        "max_iter must be an int, got float",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0, sparsity=None),
        "sparsity must be a float, got NoneType",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0, init=W),
        "init must be a tuple (f, g), got ndarray",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0, callback=3),
        "callback must be callable, got int",
    ),
    (
        lambda: lowla.sinkhorn(None, None, C0, 1.0).plan_sparse(None),
        "threshold must be a float, got NoneType",
    ),
    (lambda: lowla.sinkhorn_points(A * 1j, H, 1.0), "X must be real, got dtype complex128"),
    (lambda: lowla.logsumexp(A * 1j), "X must be real, got dtype complex128"),
    (lambda: lowla.softmax(A, axis=0.5), "axis must be an int, got float"),
    (lambda: lowla.rsvd(A, 3.0), "k must be an int, got float"),
    (lambda: lowla.rsvd(A, "3"), "k must be an int, got str"),
    (lambda: lowla.rsvd(A, True), "k must be an int, got bool"),
    (lambda: lowla.rsvd(A, tol="tight"), "tol must be a float, got str"),
    (lambda: lowla.rsvd(A, 3, oversample=1.5), "oversample must be an int, got float"),
    (lambda: lowla.rsvd(A, 3, n_iter=2.0), "n_iter must be an int, got float"),
    (lambda: lowla.rsvd(A, 3, callback=1), "callback must be callable, got int"),
    (
        lambda: lowla.rsvd(A, 3, rng="seed"),
        "rng must be None, an int, a numpy.random.Generator or a numpy.random.SeedSequence, "
        "got str",
    ),
    (lambda: lowla.rsvd(A.astype(object), 3), "A must be numeric, got dtype object"),
    (lambda: lowla.rsvd(A.astype(str), 3), "A must be numeric, got dtype <U32"),
    (
        lambda: lowla.rsvd(np.zeros((3, 3), "M8[s]"), 3),
        "A must be numeric, got dtype datetime64[s]",
    ),
    (lambda: lowla.rsvd(None, 3), "A must be numeric, got dtype object"),
    (
        lambda: lowla.rsvd(np.ma.masked_less(A, 0), 3),
        "A is a masked array: fill it (A.filled(0)) first",
    ),
    (lambda: lowla.nystrom(H, 3.0), "k must be an int, got float"),
    (lambda: lowla.reigh(H.astype(object), 3), "A must be numeric, got dtype object"),
    (lambda: lowla.StreamingSVD(3.0, 40), "k must be an int, got float"),
    (lambda: lowla.StreamingSVD(3, 40.0), "n must be an int, got float"),
    (lambda: _stream(A, A * 1j), "rows must be float64 as the first rows were, got complex128"),
    (
        lambda: _stream(aslinearoperator(A)),
        "rows must be an array or a sparse matrix, got a linear operator",
    ),
    (lambda: _stream(A).merge(A), "other must be a StreamingSVD, got ndarray"),
    (
        lambda: lowla.sketch(aslinearoperator(A), 3),
        "A must be an array or a sparse matrix, got a linear operator",
    ),
    (lambda: lowla.sketch(A, 3.0), "d must be an int, got float"),
    (
        lambda: lowla.sketch_operator("sparse", 3, 40, density="0.1"),
        "density must be a float, got str",
    ),
    (
        lambda: lowla.sketch_operator("sjlt", 3, 40, dtype=np.complex128),
        "dtype must be float32 or float64, got complex128",
    ),
    (lambda: lowla.lstsq(A.astype(object), B), "A must be numeric, got dtype object"),
    (lambda: lowla.lstsq(A, B.astype(str)), "b must be numeric, got dtype <U32"),
    (lambda: lowla.lstsq(A, sp.csr_array(A)), "b must be a dense array, got csr_array"),
    (lambda: lowla.lstsq(A, B, "small"), "rcond must be a float, got str"),
    (lambda: lowla.lstsq(A, B, damp=None), "damp must be a float, got NoneType"),
    (lambda: lowla.lstsq(A, B, max_iter=2.0), "max_iter must be an int, got float"),
    (lambda: lowla.lstsq(A, B, callback=1), "callback must be callable, got int"),
    (
        lambda: lowla.lstsq(aslinearoperator(A), B * 1j),
        "b must be float64 as A is, got complex128",
    ),
    (
        lambda: lowla.lp_regression(A * 1j, B, 1),
        "lp_regression is for real A and b, got complex128",
    ),
    (
        lambda: lowla.lp_regression(aslinearoperator(A), B, 1),
        "A must be an array or a sparse matrix, got a linear operator",
    ),
    (lambda: lowla.lp_regression(A, B, "one"), "p must be a float, got str"),
    (
        lambda: lowla.leverage_scores(aslinearoperator(A)),
        "A must be an array or a sparse matrix, got a linear operator",
    ),
    (lambda: lowla.sensitivity_sample(A, 3.0), "n_samples must be an int, got float"),
    (
        lambda: lowla.kron_matmul(3, np.ones(3)),
        "factors must be a sequence of matrices, got int",
    ),
    (
        lambda: lowla.kron_matmul([P, P.astype(object)], np.ones(4)),
        "factors[1] must be numeric, got dtype object",
    ),
    (
        lambda: lowla.kron_matmul([P, sp.csr_array(P)], np.ones(4)),
        "factors[1] must be a dense array, got csr_array",
    ),
    (
        lambda: lowla.Kronecker(P, lowla.Kronecker(P)),
        "factors[1] must be a dense array, got Kronecker",
    ),
    (
        lambda: lowla.kron_matmul([P, P], np.array(["a"] * 4)),
        "X must be numeric, got dtype <U1",
    ),
    (
        lambda: lowla.kron_matmul([P], aslinearoperator(P)),
        "X must be a dense array, got MatrixLinearOperator",
    ),
    (lambda: lowla.kron_solve([P], np.ones(2), "one"), "shift must be a float, got str"),
    (lambda: lowla.kron_solve([P], np.ones(2), 1j), "shift must be a float, got complex"),
    (
        lambda: lowla.nearest_kron(sp.csr_array(A), (6, 5), (10, 8)),
        "A must be a dense array, got csr_array",
    ),
    (lambda: lowla.nearest_kron(A, 6, (10, 8)), "shape1 must be a pair of ints, got 6"),
    (
        lambda: lowla.nearest_kron(A, (6, 5), (10, 8.0)),
        "shape2[1] must be an int, got float",
    ),
    (
        lambda: lowla.nearest_kron(A, (6, 5), (10, 8), 1.0),
        "terms must be an int, got float",
    ),
    (
        lambda: lowla.monarch_matmul(Q.astype(object), Q, np.ones(8)),
        "L must be numeric, got dtype object",
    ),
    (
        lambda: lowla.monarch_matmul(Q, sp.csr_array(P), np.ones(8)),
        "R must be a dense array, got csr_array",
    ),
    (lambda: lowla.monarch_project(sp.csr_array(A)), "W must be a dense array, got csr_array"),
    (lambda: lowla.monarch_project(A, 4), "blocks must be a pair of ints, got 4"),
    (lambda: lowla.monarch_project(A, (4, 6.0)), "blocks[1] must be an int, got float"),
    (lambda: lowla.monarch_dft(4.0), "n must be an int, got float"),
    (
        lambda: lowla.monarch_dft(4, dtype=np.float64),
        "dtype must be complex64 or complex128, got float64",
    ),
    (lambda: lowla.fftconv(B * 1j, B), "fftconv is for real u and k, got complex128"),
    (lambda: lowla.fftconv(B, B * 1j), "fftconv is for real u and k, got complex128"),
    (lambda: lowla.fftconv(B.astype(str), B), "u must be numeric, got dtype <U32"),
    (lambda: lowla.fftconv(B, B, mask=B * 1j), "mask must be real, got complex128"),
    (lambda: lowla.fftconv(B, B, mask=B.astype(str)), "mask must be numeric, got dtype <U32"),
    (
        lambda: lowla.fftconv(B, B, mask=sp.csr_array(A)),
        "mask must be a dense array, got csr_array",
    ),
    (lambda: lowla.monarch_fft(B, 4.0), "n must be an int, got float"),
    (lambda: lowla.monarch_fft(B.astype(str)), "x must be numeric, got dtype <U32"),
]


TYPE += [
    (lambda: lowla.complete(A * 1j, 1), "M must be real, got dtype complex128"),
    (lambda: lowla.complete(S * 1j, 1), "M must be real, got dtype complex128"),
    (lambda: lowla.complete(S.tocsc() * 1j, 1), "M must be real, got dtype complex128"),
    (lambda: lowla.complete(A.astype(str), 1), "M must be numeric, got dtype <U32"),
    (
        lambda: lowla.complete(aslinearoperator(A), 1),
        "M must be an array or a sparse matrix, got a linear operator",
    ),
    (lambda: lowla.complete(S, 1.0), "k must be an int, got float"),
    (lambda: lowla.complete(S, 1, n_iter=1.0), "n_iter must be an int, got float"),
    (lambda: lowla.complete(S, 1, reg="x"), "reg must be a float, got str"),
    (lambda: lowla.complete(S, 1, weights=A * 1j), "weights must be real, got dtype complex128"),
    (lambda: lowla.complete(S, 1, callback=3), "callback must be callable, got int"),
    (
        lambda: lowla.complete(S, 1, init=np.ones(3)),
        "init must be 'spectral', 'random', a CompletionResult or (U, V), got ndarray",
    ),
    (
        lambda: lowla.complete(S, 1, init=(np.ones((3, 1)) * 1j, np.ones((4, 1)))),
        "init U must be real, got dtype complex128",
    ),
    (
        lambda: lowla.complete(S, 1, rng="0"),
        "rng must be None, an int, a numpy.random.Generator or a numpy.random.SeedSequence, got "
        "str",
    ),
    (lambda: lowla.soft_impute(S, None), "lam must be a float, got NoneType"),
    (lambda: lowla.soft_impute(S, 1.0, rank_max=1.5), "rank_max must be an int, got float"),
    (lambda: lowla.svt("A", 1.0), "X must be numeric, got dtype <U1"),
]


@pytest.mark.parametrize(("call", "message"), VALUE, ids=[message for _, message in VALUE])
def test_value_error(backend, call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert type(caught.value) is ValueError
    assert str(caught.value) == message


@pytest.mark.parametrize(("call", "message"), TYPE, ids=[message for _, message in TYPE])
def test_type_error(backend, call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("form", [lambda A: A, lambda A: A[None], sp.csr_array])
def test_without_the_check_bad_data_gives_bad_factors(backend, form):
    U, S, Vh = lowla.rsvd(form(_with(np.nan)), 3, rng=0, check_finite=False)
    assert np.isnan(S).all()
    assert np.isnan(U).all()
    assert np.isnan(Vh).all()


def test_a_tolerance_below_rounding_warns(backend):
    with pytest.warns(
        lowla.ConvergenceWarning,
        match=r"rsvd stopped at a relative error of .*, asked was tol=1e-300",
    ):
        result = lowla.rsvd(A, tol=1e-300, rng=0)
    assert not result.info.converged


def test_a_rank_below_the_tolerance_warns(backend):
    with pytest.warns(lowla.ConvergenceWarning, match="asked was tol=0.01"):
        result = lowla.rsvd(A, 5, tol=0.01, rng=0)
    assert result.S.shape == (5,)
    assert not result.info.converged


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_empty_matrices_have_rank_zero(backend, shape, dtype):
    U, S, Vh = result = lowla.rsvd(np.zeros(shape, dtype), tol=0.5)
    assert (U.shape, S.shape, Vh.shape) == ((shape[0], 0), (0,), (0, shape[1]))
    assert (U.dtype, S.dtype, Vh.dtype) == (dtype, np.finfo(dtype).dtype, dtype)
    assert (result.info.rank, result.info.error, result.info.converged) == (0, 0.0, True)


def test_a_stack_of_no_matrices(backend):
    U, S, Vh = lowla.rsvd(np.zeros((0, 2, 6, 5)), 3)
    assert (U.shape, S.shape, Vh.shape) == ((0, 2, 6, 3), (0, 2, 3), (0, 2, 3, 5))


def test_failures_leave_the_stream_as_it_was(backend):
    stream = _stream(A)
    before = stream.result()
    for bad in (np.tile(_with(np.nan), (9, 1)), A[:, :7], A.astype(object)):
        with pytest.raises((ValueError, TypeError)):
            stream.partial_fit(bad)
    assert stream.n_rows == 60
    for ours, theirs in zip(stream.result(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("method", ["auto", "direct", "precondition", "sketch"])
@pytest.mark.parametrize("form", [lambda A: A, sp.csr_array])
def test_without_the_check_bad_least_squares_give_nan(backend, form, method):
    for left, right in ((_with(np.nan), B), (A, _with(np.inf)[:, 4:6])):
        result = lowla.lstsq(form(left), right, method=method, rng=0, check_finite=False)
        assert np.isnan(result.x).all()
        assert np.isnan(result.s).all()
    assert np.isnan(lowla.lp_regression(A, B * np.nan, 1, check_finite=False).x).all()


def test_without_the_check_bad_costs_give_nan(backend):
    for r in (
        lowla.sinkhorn(None, None, C_with(np.nan), 1.0, check_finite=False),
        lowla.sinkhorn(None, None, C_with(-np.inf), 1.0, check_finite=False),
        lowla.sinkhorn_points(_with(np.nan), H, 1.0, check_finite=False),
    ):
        assert np.isnan(np.concatenate(r)).all()
        assert np.isnan([r.value, r.value_linear, r.info.marginal_error]).all()
        assert not r.info.converged
        assert np.isnan(r.plan).all()


def test_without_the_check_bad_observations_give_nan(backend):
    for M in (S_with(np.nan), S_with(np.inf), _with(np.inf)):
        for options in ({}, {"bias": True}, {"loss": "l1"}, {"method": "scaled_gd"}):
            r = lowla.complete(M, 1, check_finite=False, **options)
            assert np.isnan(r.toarray()).all()
            assert not r.info.converged
            assert np.isnan(r.info.rmse)
        r = lowla.soft_impute(M, 1.0, check_finite=False)
        assert np.isnan(r.toarray()).all()
        assert not r.info.converged
