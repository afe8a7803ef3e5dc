"""The emulated CUDA backend with arrays that mix with those of NumPy as little as CuPy's do."""

from __future__ import annotations

import contextlib
import types

import numpy as np

from lowla import _arrays, _backend


class OnGpu(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that NumPy's functions take, but not together with one in main memory."""

    __module__ = "cupy"
    device = contextlib.nullcontext()

    def __init__(self, held):
        self._held = held

    def __array__(self, *_, **__):
        raise TypeError("implicit conversion to a NumPy array")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return on_gpu(getattr(ufunc, method)(*map(held, inputs), **options))

    def __array_function__(self, function, _, arguments, options):
        taken = [
            [held(a) for a in argument] if isinstance(argument, list) else held(argument)
            for argument in arguments
        ]
        return on_gpu(function(*taken, **{name: held(a) for name, a in options.items()}))

    def __getattr__(self, name):
        value = getattr(self._held, name)
        if not callable(value):
            return on_gpu(value)
        return lambda *arguments, **options: on_gpu(value(*arguments, **options))

    def __getitem__(self, key):
        return on_gpu(self._held[held(key)])

    def __setitem__(self, key, value):
        self._held[held(key)] = held(value)

    def __len__(self):
        return len(self._held)

    def __bool__(self):
        return bool(self._held)

    def get(self):
        return self._held.copy()


def on_gpu(value):
    if isinstance(value, tuple):
        return tuple(on_gpu(part) for part in value)
    return OnGpu(value) if isinstance(value, np.ndarray | np.bool_) else value


def held(value):
    assert not isinstance(value, np.ndarray), "NumPy and CuPy arrays do not mix"
    if isinstance(value, list | tuple):
        return type(value)(held(part) for part in value)
    return value._held if isinstance(value, OnGpu) else value


class SparseOnGpu:
    """A sparse matrix of cupyx.scipy.sparse, as far as its format and parts go."""

    __module__ = "cupyx.scipy.sparse"

    def __init__(self, A):
        self._held = A

    def __getattr__(self, name):
        return on_gpu(getattr(self._held, name))

    def tocsr(self):
        return SparseOnGpu(self._held.tocsr())

    def tocoo(self):
        return SparseOnGpu(self._held.tocoo())


class Gpu(types.ModuleType):
    """The emulation, with the arrays of its device as OnGpu.

    `in_main_memory`: the arguments of each function that are there, and whether its result is.
    """

    def __init__(self, module, in_main_memory):
        super().__init__("_cuda")
        self._module, self._in_main_memory = module, in_main_memory

    def __getattr__(self, name):
        function, (host, result_on_host) = getattr(self._module, name), self._in_main_memory[name]
        annotations = getattr(_backend.Backend, name).__annotations__
        names = [p for p in annotations if p != "return"]

        def call(*arguments):
            taken = []
            for parameter, value in zip(names, arguments, strict=True):
                if parameter in host:
                    assert not isinstance(value, OnGpu), (name, parameter)
                    taken.append(value)
                else:
                    taken.append(held(value))
            found = function(*taken)
            return found if result_on_host else on_gpu(found)

        return call


def install(module, in_main_memory, monkeypatch):
    """CuPy and the CUDA backend, as far as they are needed; returns CuPy."""
    gpu = Gpu(module, in_main_memory)
    monkeypatch.setitem(_backend._LOADERS, "cuda", lambda: (gpu, None))
    cupy = types.SimpleNamespace(
        asarray=lambda a: a if isinstance(a, OnGpu) else OnGpu(np.array(a)),
        asnumpy=lambda a: a.get(),
        zeros=lambda *a, **options: OnGpu(np.zeros(*a, **options)),
        ones=lambda *a, **options: OnGpu(np.ones(*a, **options)),
        arange=lambda *a: OnGpu(np.arange(*a)),
        add=np.add,
    )
    monkeypatch.setattr(_arrays, "_cupy", lambda: cupy)
    return cupy
