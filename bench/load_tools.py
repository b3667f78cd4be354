"""Load generators of others, as they are, with pictures: python -m bench.load_tools FOLDER.

A real server with the embedded model, and in FOLDER the commands of aiperf and guidellm. Each asks
streamed questions about pictures of its own making and prints its figures; a relay in between reads
along, so that its counts of requests and tokens are held against what the server said. `make
load-tools` gives them an environment of their own.
"""

import argparse
import asyncio
import json
import os
import shlex
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.faults import commit
from bench.serving import serving
from bench.witness import Witness, witness

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
MODEL = Path("src/vlserve/models/embedded")  # its tokenizer, from ROOT
WIDTH, HEIGHT = 320, 240
NUM_WORDS, NUM_TOKENS = 12, 20
_LONGEST_S = 300.0

Counts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Tool:
    """A command, and what it says of itself: the counts and the texts of the answers in its report,
    and what it printed."""

    name: str
    command: Callable[[argparse.Namespace, str, Path], list[str]]
    counts: Callable[[Path], Counts]
    texts: Callable[[Path], list[str]]
    printed: Callable[[Path, str], str]


def aiperf(options: argparse.Namespace, url: str, folder: Path) -> list[str]:
    """Its chat endpoint; lengths as the server counts them."""
    return [
        *("aiperf", "profile", "--model", "embedded", "--url", url, "--endpoint-type", "chat"),
        *("--streaming", "--tokenizer", str(MODEL), "--use-server-token-count"),
        *("--image-width-mean", str(WIDTH), "--image-height-mean", str(HEIGHT)),
        *("--image-format", "png", "--isl", str(NUM_WORDS), "--osl", str(NUM_TOKENS)),
        *("--extra-inputs", "ignore_eos:true", "--request-count", str(options.requests)),
        *("--concurrency", str(options.clients), "--random-seed", str(options.seed)),
        *("--ui", "none", "--no-gpu-telemetry", "--no-server-metrics"),
        *("--export-outputs-json", "--artifact-dir", str(folder)),
    ]


def aiperf_counts(folder: Path) -> Counts:
    """What its JSON export says."""
    report = json.loads((folder / "profile_export_aiperf.json").read_text())
    errors = sum(each["count"] for each in report["error_summary"])
    return {
        "answered": round(report["request_count"]["avg"]),
        "failed": errors,
        "prompt tokens": round(report["total_isl"]["avg"]),
        "answer tokens": round(report["total_osl"]["avg"]),
    }


def aiperf_texts(folder: Path) -> list[str]:
    """The answers, in order."""
    return [
        each["response_text"] for each in json.loads((folder / "outputs.json").read_text())["data"]
    ]


def aiperf_printed(folder: Path, _: str) -> str:
    """Its tables, as it exports them."""
    return (folder / "profile_export_console.txt").read_text()


def guidellm(
    request_format: str,
) -> Callable[[argparse.Namespace, str, Path], list[str]]:
    """The command for one of OpenAI's two calls."""

    def command(options: argparse.Namespace, url: str, folder: Path) -> list[str]:
        backend = f"kind=openai_http,target={url},model=embedded,request_format={request_format}"
        picture = f"kind=synthetic_image,width={WIDTH},height={HEIGHT},seed={options.seed}"
        text = f"kind=synthetic_text,prompt_tokens={NUM_WORDS},output_tokens={NUM_TOKENS}"
        return [
            *("guidellm", "run", "--backend", backend),
            *("--profile", f"kind=concurrent,streams={options.clients}"),
            *("--constraint", f"kind=max_requests,count={options.requests}"),
            *("--constraint", "kind=max_errors,count=1"),
            *("--tokenizer", f"kind=huggingface_auto,model={MODEL}"),
            *("--data", picture, "--data", text, "--seed", f"kind=static,value={options.seed}"),
            *("--output", "kind=console", "--output", f"kind=json,path={folder / 'report.json'}"),
            "--disable-progress",
        ]

    return command


def guidellm_counts(folder: Path) -> Counts:
    """What its JSON export says."""
    metrics = _guidellm(folder)["metrics"]
    return {
        "answered": metrics["request_totals"]["successful"],
        "failed": metrics["request_totals"]["errored"] + metrics["request_totals"]["incomplete"],
        "prompt tokens": _total(metrics["prompt_token_count"]),
        "answer tokens": _total(metrics["output_token_count"]),
    }


def guidellm_chat_counts(folder: Path) -> Counts:
    """The same of chat completions, of which it takes all tokens of a prompt for its text's, and
    adds those of its pictures once more: what is read here is without them."""
    text = _guidellm(folder)["metrics"]["text"]["tokens"]["input"]
    return guidellm_counts(folder) | {"prompt tokens": _total(text)}


def guidellm_texts(folder: Path) -> list[str]:
    """The answers, in order."""
    return [each["output"] for each in _guidellm(folder)["requests"]["successful"]]


def _guidellm(folder: Path) -> dict[str, Any]:
    benchmark: dict[str, Any]
    (benchmark,) = json.loads((folder / "report.json").read_text())["benchmarks"]
    return benchmark


def _total(figures: dict[str, Any]) -> int:
    total: float = figures["successful"]["total_sum"]
    return round(total)


def guidellm_printed(_: Path, output: str) -> str:
    """Its tables."""
    begin = output.rindex("Run Summary Info")  # the last of two times
    end = output.index("Benchmarking complete", begin)
    return "\n".join(line.rstrip() for line in output[begin:end].splitlines()[:-1])


TOOLS = (
    Tool("aiperf", aiperf, aiperf_counts, aiperf_texts, aiperf_printed),
    Tool(
        "guidellm",
        guidellm("/v1/chat/completions"),
        guidellm_chat_counts,
        guidellm_texts,
        guidellm_printed,
    ),
    Tool(
        "guidellm-responses",
        guidellm("/v1/responses"),
        guidellm_counts,
        guidellm_texts,
        guidellm_printed,
    ),
)


def said(seen: Witness) -> Counts:
    """What the server said, by the names of what a tool says."""
    answers = seen.answers()
    return {
        "answered": len(answers),
        "failed": seen.num_refused(),
        "prompt tokens": sum(answer.num_prompt for answer in answers),
        "answer tokens": sum(answer.num_tokens for answer in answers),
    }


async def run(tool: Tool, options: argparse.Namespace, server: str) -> tuple[str, bool]:
    """One tool against the server: the page of it, and whether it counted as the server did."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with witness(server) as seen:
            command = tool.command(options, f"http://{seen.address}", folder)
            output = await _output(options.folder, command, folder)
        counts, server_counts = tool.counts(folder), said(seen)
        texts, answers = tool.texts(folder), seen.answers()
        images = sum(answer.num_images for answer in answers)
        num_same = (Counter(texts) & Counter(answer.text for answer in answers)).total()
        shown = shlex.join(command).replace(name, "FOLDER").replace(seen.address, "HOST:PORT")
        head: dict[str, Any] = {
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "run by": shlex.join(["python", "-m", "bench.load_tools", *options.shown]),
            "commit": options.commit,
            "seed": options.seed,
            "cores": os.cpu_count(),
            "tool": _pin(command[0]),
            "command": shown,
            "the tool counted": counts,
            "the server said": server_counts | {"of the prompts, pictures": images},
            "answers alike": f"tried {len(texts)}, held {num_same}",
            "the first ones": texts[:3],
        }
        lines = [f"{name}: {fact}" for name, fact in head.items()]
        is_held = counts == server_counts and num_same == len(texts) == options.requests
        return "\n".join([*lines, "", tool.printed(folder, output).strip(), ""]), is_held


def _pin(name: str) -> str:
    """What is installed of a tool."""
    lines = (ROOT / "bench" / "load-requirements.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith(name))


async def _output(binaries: Path, command: Sequence[str], folder: Path) -> str:
    """What a command printed. Ends this program with it where it fails."""
    # aiperf takes a folder for a name on the hub where it is told to stay offline.
    environment = ("-u", "HF_HUB_OFFLINE", f"HF_HOME={folder}", "COLUMNS=118")
    process = await asyncio.create_subprocess_exec(
        *("env", *environment, str(binaries / command[0]), *command[1:]),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_LONGEST_S):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # both start others
            await process.wait()
    if process.returncode:
        sys.exit(f"{shlex.join(command)}\n{printed.decode()}\nended with {process.returncode}")
    return printed.decode()


async def measure(options: argparse.Namespace) -> bool:
    """Each tool in turn, its page printed and written; whether all counted as the server did."""
    is_held = True
    async with serving() as server:
        for tool in TOOLS:
            page, is_one_held = await run(tool, options, server.http)
            is_held = is_held and is_one_held
            print(page)
            date = f"{datetime.now().astimezone():%Y-%m-%d}"
            (RESULTS / f"{tool.name}-{date}.txt").write_text(page)
    return is_held


def main() -> None:
    """Measure, print, write; exit status 1 where a tool counted other than the server."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.load_tools")
    parser.add_argument("folder", type=lambda name: Path(name).absolute(), help="their commands")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.shown = sys.argv[1:]
    options.commit = commit()  # before a page is written
    sys.exit(not asyncio.run(measure(options)))


if __name__ == "__main__":
    main()
