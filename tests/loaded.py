"""A command beside processes that want the cores as much as it does: python -m tests.loaded.

    python -m tests.loaded --load 6 --times 3 python -m pytest tests/engines

Says after each time how the command ended, and fails where one of them failed.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Ends by itself where whoever started it is gone.
BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def load(num: int) -> Iterator[list[int]]:
    """`num` processes that never wait, by their ids, until the end."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())]) for _ in range(num)]
    try:
        yield [process.pid for process in busy]
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> int:
    """The exit status: 0 where every time went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=int, default=6, help="processes beside the command")
    parser.add_argument("--times", type=int, default=1, help="how often the command runs")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("no command")
    num_failed = 0
    with load(options.load):
        for time_no in range(1, options.times + 1):
            began_s = time.monotonic()
            status = subprocess.run(options.command, check=False).returncode
            num_failed += status != 0
            average = Path("/proc/loadavg").read_text().split()[0]
            took_s = time.monotonic() - began_s
            print(
                f"{time_no} of {options.times} beside {options.load} busy processes: "
                f"status {status}, {took_s:.0f} s, load average {average}",
                flush=True,
            )
    print(f"{options.times} times, {num_failed} failed")
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
