"""Unmodified clients, plain and streamed: python -m bench.stock_clients ENVIRONMENTS.

A real server with the embedded model; each client asks about the bundled picture in a process of
its own, with whatever defaults it has. It holds where it prints the answer that a plain HTTP call
gets. ENVIRONMENTS is the folder that `make clients` fills: `python`, `python-openai2` and `node`.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final

import httpx2
from rich.console import Console
from rich.table import Table

from bench.faults import commit
from bench.serving import Served, serving
from bench.stock_clients import python_clients

HERE: Final = Path(__file__).parent
QUESTION: Final = "How many shapes are there?"
# instructor holds the answer to a schema, which a plain question does not.
OBJECT: Final = "an object with the text str"
OF_OPENAI_2: Final = ("llama-index",)
OF_NODE: Final = ("openai-node", "LangChain.js", "AI SDK")
MODES: Final = ("plain", "streamed")
_LONGEST_S: Final = 240.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One client in one mode; `said` is what it printed, or the last line of its failure."""

    client: str
    mode: str
    is_held: bool
    said: str


async def tried(client: str, mode: str, served: Served, folder: Path, answer: str) -> Trial:
    """Ask by one client."""
    picture = _picture()
    address = served.grpc if client == "tritonclient" else served.http
    told = (client, mode, address, str(picture), QUESTION)
    if client in OF_NODE:
        command, where = ("node", str(HERE / "node" / "clients.mjs"), *told), folder / "node"
    else:
        name = "python-openai2" if client in OF_OPENAI_2 else "python"
        python = folder / name / "bin" / "python"
        command, where = (str(python), str(HERE / "python_clients.py"), *told), folder
    process = await asyncio.create_subprocess_exec(
        *command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_LONGEST_S):
            out, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return Trial(client, mode, is_held=False, said=f"no answer in {_LONGEST_S:g} s")
    said = out.decode().strip()
    if process.returncode:
        said = (errors.decode().strip().splitlines() or [""])[-1]
    wanted = OBJECT if client == "instructor" else answer
    return Trial(client, mode, is_held=not process.returncode and said == wanted, said=said)


def plain_answer(address: str) -> str:
    """What a call without any library gets."""
    url = python_clients.data_url(_picture().read_bytes())
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": QUESTION},
    ]
    body = {"messages": [{"role": "user", "content": content}]}
    answer = httpx2.post(f"http://{address}/v1/chat/completions", json=body, timeout=60)
    text: str = answer.raise_for_status().json()["choices"][0]["message"]["content"]
    return text.strip()


async def run(folder: Path, names: list[str]) -> list[Trial]:
    """All clients in all modes, one after the other."""
    async with serving() as served:
        answer = await asyncio.to_thread(plain_answer, served.http)
        trials = []
        for name in names:
            for mode in MODES:
                trial = await tried(name, mode, served, folder, answer)
                mark = "held" if trial.is_held else f"FAILED: {trial.said}"
                print(f"{name}, {mode}: {mark}", flush=True)
                trials.append(trial)
        return trials


def table_of(trials: list[Trial]) -> Table:
    """A row a client."""
    table = Table("client", *MODES)
    for name in dict.fromkeys(trial.client for trial in trials):
        table.add_row(
            name, *("held" if t.is_held else "FAILED" for t in trials if t.client == name)
        )
    return table


def versions(folder: Path) -> dict[str, str]:
    """What is installed of the clients."""
    found: dict[str, str] = {}
    for name in ("python", "python-openai2"):
        command = [
            *(str(folder / name / "bin" / "python"), "-c"),
            "import importlib.metadata as m;print(*(f'{d.name}=={d.version}'"
            " for d in m.distributions()))",
        ]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
        pinned = (HERE / f"requirements{name.removeprefix('python')}.txt").read_text()
        wanted = {re.split(r"[\[=]", line)[0] for line in pinned.splitlines()}
        for each in listed.split():
            package, version = each.lower().replace("_", "-").split("==")
            if package in wanted:
                found[f"{package} ({name})"] = version
    modules = folder / "node" / "node_modules"
    for package in json.loads((HERE / "node" / "package.json").read_text())["dependencies"]:
        found[package] = json.loads((modules / package / "package.json").read_text())["version"]
    return found


def _picture() -> Path:
    return Path(str(resources.files("vlserve.models") / "embedded" / "example.png"))


def main() -> int:
    """Run, print a table and write it; 1 where a client failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("environments", type=Path)
    parser.add_argument("--only", action="append", help="a client; may be given several times")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    names = options.only or [*python_clients.CLIENTS, *OF_NODE]
    trials = asyncio.run(run(options.environments.resolve(), names))
    Console(width=80).print(table_of(trials))
    num_held = sum(trial.is_held for trial in trials)
    print(f"clients {len(names)}, tried {len(trials)}, held {num_held}")
    if options.out is not None:
        result: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": "python -m bench.stock_clients",
            "commit": commit(),
            "versions": versions(options.environments),
            "trials": [asdict(trial) for trial in trials],
        }
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if num_held == len(trials) else 1


if __name__ == "__main__":
    sys.exit(main())
