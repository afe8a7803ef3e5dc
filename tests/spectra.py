"""Matrices of given singular values."""

from __future__ import annotations

import numpy as np


def matrix_with_spectrum(m, n, S, dtype="float64", seed=0):
    """(m, n), C order, with singular values S and random singular vectors."""
    rng = np.random.default_rng(seed)
    is_complex = np.dtype(dtype).kind == "c"

    def orthonormal(rows):
        G = rng.standard_normal((rows, len(S)))
        if is_complex:
            G = G + 1j * rng.standard_normal((rows, len(S)))
        return np.linalg.qr(G)[0]

    return np.ascontiguousarray(((orthonormal(m) * S) @ orthonormal(n).conj().T).astype(dtype))
