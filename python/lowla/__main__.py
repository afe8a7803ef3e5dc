"""`python -m lowla tour` and `python -m lowla info`."""

from __future__ import annotations

import argparse
from pathlib import Path

import lowla


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lowla", description=lowla.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    tour = commands.add_parser("tour", help="run every kernel on real data")
    tour.add_argument("--out", type=Path, default=Path("lowla_tour"), metavar="DIR")
    tour.add_argument("--size", choices=("small", "full"), default="full")
    commands.add_parser("info", help="version, backends, threads")
    arguments = parser.parse_args()
    if arguments.command == "info":
        lowla.show_config()
    else:
        from lowla._tour import run

        run(arguments.out, arguments.size)


if __name__ == "__main__":
    main()
