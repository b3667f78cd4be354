"""The HTTP door against its own OpenAPI document: python -m bench.fuzz_http SCHEMATHESIS.

A real server with the echo engine. schemathesis draws requests from the document, right ones and
wrong ones, and wants no server error, no status that the document does not name, and no body that
is not as it says. `make fuzz-http` gives it an environment of its own.
"""

import argparse
import asyncio
import json
import os
import shlex
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.faults import commit
from bench.serving import serving

RESULTS = Path(__file__).parent / "results"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


async def fuzzed(options: argparse.Namespace) -> dict[str, Any]:
    """schemathesis' own report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        async with serving("--engine.kind", "echo") as server:
            process = await asyncio.create_subprocess_exec(
                *(options.schemathesis, "run", f"http://{server.http}/openapi.json"),
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
    """Fuzz, print, write; exit status 1 where a check failed or too little was tried."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.fuzz_http")
    parser.add_argument("schemathesis", type=lambda name: Path(name).absolute(), help="its command")
    parser.add_argument("--examples", type=int, default=150, help="of each operation, at most")
    parser.add_argument("--least", type=int, default=2000, help="cases in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = asyncio.run(fuzzed(options))
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
    console = Console(highlight=False, width=110)
    for name, fact in facts.items():
        console.print(f"{name}: {fact}")
    target = RESULTS / f"fuzz-http-{datetime.now().astimezone():%Y-%m-%d}.json"
    target.write_text(json.dumps(facts, indent=1) + "\n")
    is_held = facts["held"] == tried and found["complete"] and tried >= options.least
    sys.exit(not is_held)


if __name__ == "__main__":
    main()
