"""python -m benchmarks [family ...]: measure, print, store, draw."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.session import Session

FAMILIES = ("rsvd", "sketch", "lstsq", "kron", "monarch", "mfac", "sinkhorn", "completion", "cur")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("family", nargs="*", default=FAMILIES, help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store the results here")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the plots here")
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    session = Session(arguments.repetitions)
    for family in arguments.family:
        if family not in FAMILIES:
            parser.error(f"unknown family {family!r}: one of {', '.join(FAMILIES)}")
        import_module(f"benchmarks.bench_{family}").run(session)
    if arguments.json:
        session.save(arguments.json, "python -m benchmarks " + " ".join(sys.argv[1:]))
    if arguments.plot:
        session.plot(arguments.plot)


if __name__ == "__main__":
    main()
