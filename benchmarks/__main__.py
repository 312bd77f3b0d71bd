"""``python -m benchmarks``: the command line."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from benchmarks import machine, peers, suite


def main(arguments: list[str] | None = None) -> int:
    """Run, print and save; 1 when something of fastloss failed, 130 after Ctrl-C, else 0."""
    options = parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if arguments is None else arguments)])
    report = suite.run(options.level, options.doors, options.peers, options.threads, command, not options.free)
    saved = suite.save(report, options.json or suite.default_path())
    print(f"\n{report.facts['seconds']} s. Saved: {' and '.join(map(str, saved))}")
    if report.facts.get("interrupted"):
        return 130
    failures = suite.failures(report)
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


def parser() -> argparse.ArgumentParser:
    cores = machine.usable_cores()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Speed and accuracy of fastloss beside other libraries, on this machine.",
        epilog="FASTLOSS_DATA names the folder of real tables; FASTLOSS_ISA forces an instruction set; "
        "OMP_NUM_THREADS limits the threads.",
    )
    level = parser.add_mutually_exclusive_group()
    for name, help_text in (
        ("quick", "the shortest form: few losses, small sizes (under a minute)"),
        ("full", "every loss, more sizes, data and repeats (hours)"),
    ):
        level.add_argument(f"--{name}", dest="level", action="store_const", const=name, help=help_text)
    parser.set_defaults(level="default")
    parser.add_argument("--doors", type=_names(suite.DOORS), default=list(suite.DOORS), help=_choice(suite.DOORS))
    parser.add_argument("--peers", type=_names(peers.PEERS), default=list(peers.PEERS), help=_choice(peers.PEERS))
    parser.add_argument(
        "--threads",
        type=_threads,
        default=tuple(sorted({1, cores})),
        help="numbers of threads for the long kernels, e.g. 1,4 (default: one and all usable cores)",
    )
    parser.add_argument(
        "--free",
        action="store_true",
        help="leave the C library's default: freed memory goes back to the system, and peers with large temporaries "
        "(NumPy, torch) pay for page faults, as they do in a plain program",
    )
    parser.add_argument("--json", type=Path, help="JSON file; Markdown goes beside it (default: benchmarks/results/)")
    return parser


def _choice(known) -> str:
    return f"comma-separated, of {', '.join(known)} (default: all)"


def _names(known):
    def names(text: str) -> list[str]:
        wanted = [name.strip() for name in text.split(",") if name.strip()]
        for name in wanted:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return wanted

    return names


def _threads(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of positive numbers")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
