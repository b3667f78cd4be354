"""The HTTP door against its own OpenAPI document: python -m bench.fuzz_http SCHEMATHESIS.

A real server with the echo engine. schemathesis draws requests from the document, right ones and
wrong ones, and wants no server error, no status that the document does not name, and no body that
is not as it says. `make fuzz-http` gives it an environment of its own. With `--control` three
faults are planted in the door, one for each of these, and the run holds where all three are found.
"""

import argparse
import asyncio
import json
import os
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.faults import commit
from bench.fuzz_control import PLANTED, faulty
from bench.serving import serving

RESULTS = Path(__file__).parent / "results"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@asynccontextmanager
async def _door(*, has_faults: bool) -> AsyncIterator[str]:
    """Where the door listens."""
    if has_faults:
        async with faulty() as address:
            yield address
    else:
        async with serving("--engine.kind", "echo") as server:
            yield server.http


async def fuzzed(options: argparse.Namespace) -> dict[str, Any]:
    """schemathesis' own report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        async with _door(has_faults=options.control) as address:
            process = await asyncio.create_subprocess_exec(
                *(options.schemathesis, "run", f"http://{address}/openapi.json"),
                *("--phases", "coverage,fuzzing", "--checks", ",".join(CHECKS)),
                *("--max-examples", str(options.examples), "--seed", str(options.seed)),
                *("--continue-on-failure", "--no-shrink"),
                *("--report", "json", "--report-json-path", str(report)),
                cwd=folder,
            )
            await process.wait()
        facts: dict[str, Any] = json.loads(report.read_text())
        return facts


def main() -> None:
    """Fuzz, print, write; exit status 1 where a check failed or too little was tried, and of the
    control where not all that was planted is found."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.fuzz_http")
    parser.add_argument("schemathesis", type=lambda name: Path(name).absolute(), help="its command")
    parser.add_argument("--examples", type=int, default=150, help="of each operation, at most")
    parser.add_argument("--least", type=int, default=2000, help="cases in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", action="store_true", help="with faults planted in the door")
    options = parser.parse_args()
    found = asyncio.run(fuzzed(options))
    facts: dict[str, Any]
    cases = found["test_cases"]
    tried = cases["generated"]
    facts = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.fuzz_http", *sys.argv[1:]]),
        "commit": commit(),
        "seed": options.seed,
        "cores": os.cpu_count(),
        "schemathesis": found["schemathesis_version"],
        "checks": CHECKS,
        "operations": found["operations"]["tested"],
        "seconds": round(found["running_time"]),
        "tried": tried,
        "held": tried - cases["with_failures"] - cases["errored"],
        "failures": found["failures"],
    }
    is_held = facts["held"] == tried and found["complete"] and tried >= options.least
    file = "fuzz-http"
    if options.control:
        file = "fuzz-http-control"
        at_fault = {where for failure in found["failures"] for where in failure["operations"]}
        facts |= {"planted": sorted(PLANTED), "found": sorted(at_fault)}
        is_held = at_fault == set(PLANTED)
    console = Console(highlight=False, width=110)
    for name, fact in facts.items():
        console.print(f"{name}: {fact}")
    target = RESULTS / f"{file}-{datetime.now().astimezone():%Y-%m-%d}.json"
    target.write_text(json.dumps(facts, indent=1) + "\n")
    sys.exit(not is_held)


if __name__ == "__main__":
    main()
