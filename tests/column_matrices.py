"""Matrices on which choosing columns is easy or hard, and the errors of the choice."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

from tolerances import eps, relative_error

FORMS = {
    "dense": np.asarray,
    "F": np.asfortranarray,
    "csr": sp.csr_array,
    "operator": aslinearoperator,
}


def kahan(n, angle=1.2):
    """Kahan's matrix (1966): pivoted QR does not exchange a column of it, and should."""
    s, c = np.sin(angle), np.cos(angle)
    upper = np.triu(np.full((n, n), -c), 1) + np.eye(n)
    return np.diag(s ** np.arange(n)) @ upper * (1 - 1e3 * eps(float) * np.arange(n))


def heavy_tailed(m, n, seed):
    """Columns of very different norms, in random order."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, n)) * np.exp(2.0 * rng.standard_cauchy(n).clip(-6, 6))


def error_of(A, X, Z):
    return relative_error(A, X, np.ones(X.shape[1]), Z)


def column_error(A, cols):
    """||A - C C^+ A||_F / ||A||_F."""
    Q = np.linalg.svd(A[:, cols], full_matrices=False)[0]
    return np.linalg.norm(A - Q @ (Q.conj().T @ A)) / np.linalg.norm(A)
