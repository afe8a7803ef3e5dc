"""Warnings and exceptions that lowla adds to Python's and NumPy's own."""

from __future__ import annotations


class ConvergenceWarning(UserWarning):
    """An iteration ended before it reached what was asked; the result's `info` says how far."""


class CudaError(RuntimeError):
    """A CUDA library or kernel call failed; the message names the call and its status."""
