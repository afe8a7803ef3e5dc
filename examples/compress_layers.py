"""Low-rank factors of all layers of a model in one call.

The layers here are random matrices with decaying spectra; with a real model, stack its weight
matrices of equal shape. Each layer comes with a measured error, so the rank can be judged.
"""

import numpy as np

import lowla

LAYERS, ROWS, COLUMNS, RANK = 24, 512, 512, 32

rng = np.random.default_rng(0)
weights = rng.standard_normal((LAYERS, ROWS, COLUMNS)) / np.sqrt(np.arange(1, COLUMNS + 1))
r = lowla.rsvd(weights.astype(np.float32), RANK, rng=0)

left, right = r.U * r.S[:, None, :], r.Vh  # weights ~ left @ right
print(f"{LAYERS} layers of {ROWS}x{COLUMNS} at rank {RANK} in {r.info.seconds * 1e3:.0f} ms")
print(f"relative errors {r.info.error.min():.3f} to {r.info.error.max():.3f}")
worst = int(np.argmax(r.info.error))
check = np.linalg.norm(weights[worst] - left[worst] @ right[worst]) / np.linalg.norm(weights[worst])
print(f"layer {worst}: certified {r.info.error[worst]:.4f}, recomputed {check:.4f}")
