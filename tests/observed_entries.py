"""Matrices of low rank of which some entries are observed."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def low_rank(m, n, k, seed=0, cond=1.0):
    """Random singular vectors, singular values from 1 down to 1 / cond; entries of variance 1."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((m, k)))[0]
    V = np.linalg.qr(rng.standard_normal((n, k)))[0]
    X = (U * np.geomspace(1.0, 1.0 / cond, k)) @ V.T
    return X * np.sqrt(m * n) / np.linalg.norm(X)


def observed(X, count, seed=0, power=0.0):
    """`count` entries of X, each drawn with probability ~ (i j)^-power."""
    m, n = X.shape
    p = np.outer(np.arange(1, m + 1) ** -power, np.arange(1, n + 1) ** -power).ravel()
    rng = np.random.default_rng(seed + 1000)
    at = rng.choice(m * n, min(int(count), m * n), replace=False, p=p / p.sum())
    i, j = np.divmod(np.sort(at), n)
    return sp.csr_array((X[i, j], (i, j)), shape=X.shape)


def mask(M):
    found = np.zeros(M.shape, dtype=bool)
    found[M.tocoo().row, M.tocoo().col] = True
    return found
