"""`python -m tests.chaos`: the long storm; prints its table, and writes it to docs/chaos.md with --write."""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

# Before torch is imported, as in tests/conftest.py.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LOGS = Path("build/chaos-logs")


def main() -> int:
    from tests.chaos.cluster import StormFailed
    from tests.chaos.report import section, write_page
    from tests.chaos.run import run_storm

    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=100, help="number of faults, at least 6; default: 100")
    parser.add_argument("--seed", type=int, default=None, help="of the choices; default: a random one")
    parser.add_argument("--short", action="store_true", help="short runs and one worker, as in `make test`")
    parser.add_argument("--write", action="store_true", help="write the table to docs/chaos.md")
    given = parser.parse_args()
    seed = random.randrange(10_000) if given.seed is None else given.seed
    try:
        outcome = run_storm(
            faults=given.faults, seed=seed, short=given.short, logs=LOGS, report=lambda line: print(line, flush=True)
        )
    except StormFailed as error:
        print(error, file=sys.stderr)
        return 1
    print(section(outcome))
    if given.write:
        write_page(outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main())
