"""Benchmarks: ours, the tool a user would otherwise pick, and the limit of this very machine.

`python -m benchmarks [family] [--json FILE] [--plot DIR] [--quick]`. One family, one module
`bench_<family>.py` with a function `run(session)`.
"""
