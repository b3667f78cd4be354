"""Large messages beside running streams: python -m bench.bodies.

A real server, 8 streams, and health polled at both doors, while another process sends one large
message after the other: pictures that are none, in base64 in JSON or as bytes over gRPC, and
messages made to take long to read. What counts is what the streams and health notice of it.
"""

import argparse
import asyncio
import base64
import http.client
import json
import multiprocessing
import os
import random
import shlex
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.faults import commit
from bench.noticed import MAX_MESSAGE_MIB, Noticed, noticed_beside
from bench.serving import Served, serving
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.doors.grpc.vision import SERVICE
from vlserve.settings import MIB

RESULTS = Path(__file__).parent / "results"
PATH = "/v1/chat/completions"
_PAUSE_S = 0.1  # of a sender between two messages


def picture_json(mib: int) -> bytes:
    """A request of so many MiB, with noise in place of a picture."""
    data = random.Random(0).randbytes(mib * MIB * 3 // 4 - 1024)
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    part = {"type": "image_url", "image_url": {"url": url}}
    return json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode()


def repeated_json(begin: str, piece: str, end: str, mib: int) -> bytes:
    """A request of so many MiB, as many pieces as fit."""
    content = f"{begin}{piece * (mib * MIB // len(piece))}{end}"
    return f'{{"messages": [{{"role": "user", "content": {content}}}]}}'.encode()


def picture_wire(mib: int) -> bytes:
    """The same as `picture_json` over gRPC."""
    image = random.Random(0).randbytes(mib * MIB - 1024)
    return pb.VisionRequest(image=image, prompt="What is it?").SerializeToString()


def repeated_wire(mib: int) -> bytes:
    """As many messages as fit, with nothing in them."""
    one = pb.VisionRequest(messages=[pb.Message()]).SerializeToString()
    return one * (mib * MIB // len(one))


MESSAGES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "HTTP, 16 MiB in base64": ("http", partial(picture_json, 16)),
    "HTTP, 45 MiB in base64": ("http", partial(picture_json, 45)),
    "HTTP, 45 MiB of values": ("http", partial(repeated_json, "[", '{"a":{}},', "{}]", 45)),
    "HTTP, 45 MiB of lists": ("http", partial(repeated_json, "[", "[[[[[[[]]]]]]],", "[]]", 45)),
    "HTTP, 45 MiB of escapes": ("http", partial(repeated_json, '"', "\\n", '"', 45)),
    "gRPC, 60 MiB as bytes": ("grpc", partial(picture_wire, 60)),
    "gRPC, 60 MiB of messages": ("grpc", partial(repeated_wire, 60)),
}


def send(name: str, address: str, seconds: float) -> list[str]:
    """Send one of MESSAGES again and again. Returns how each was answered."""
    way, make = MESSAGES[name]
    data = make()
    end = time.monotonic() + seconds
    answers = []
    while time.monotonic() < end:
        answers.append((_posted if way == "http" else _called)(address, data))
        time.sleep(_PAUSE_S)
    return answers


def _posted(address: str, data: bytes) -> str:
    connection = http.client.HTTPConnection(address)
    try:
        connection.request("POST", PATH, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return f"{answer.status}: {json.loads(answer.read())['error']['message']}"
    finally:
        connection.close()


def _called(address: str, data: bytes) -> str:
    with grpc.insecure_channel(
        address, options=[("grpc.max_send_message_length", MAX_MESSAGE_MIB * MIB)]
    ) as channel:
        try:
            channel.unary_unary(f"/{SERVICE}/Chat", bytes, bytes)(data)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return "answered"


async def phase(server: Served, pool: Executor, name: str, seconds: float, seed: int) -> Noticed:
    """The streams, and beside them one of MESSAGES, or nothing."""
    async with noticed_beside(server, seed) as noticed:
        if name in MESSAGES:
            address = getattr(server, MESSAGES[name][0])
            sending = asyncio.get_running_loop().run_in_executor(pool, send, name, address, seconds)
            noticed.refused.update(await sending)
        else:
            await asyncio.sleep(seconds)
    return noticed


def figures(rounds: Sequence[Noticed]) -> dict[str, float]:
    """Medians over the rounds, ms."""
    columns: dict[str, Callable[[Noticed], float]] = {
        "longest gap": lambda n: max(n.gaps_s),
        "p99 gap": lambda n: float(np.percentile(n.gaps_s, 99)),
        "gRPC health p99": lambda n: float(np.percentile(n.health_s["gRPC"], 99)),
        "gRPC health longest": lambda n: max(n.health_s["gRPC"]),
        "HTTP health p99": lambda n: float(np.percentile(n.health_s["HTTP"], 99)),
        "HTTP health longest": lambda n: max(n.health_s["HTTP"]),
    }
    return {
        name: round(1000 * statistics.median(map(value, rounds)), 1)
        for name, value in columns.items()
    }


async def measure(options: argparse.Namespace) -> dict[str, list[Noticed]]:
    """Rounds in turns, each message in its own phase."""
    found: dict[str, list[Noticed]] = {name: [] for name in ("nothing", *MESSAGES)}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(os.getpid).result()
        async with serving() as server:
            for index in range(options.rounds):
                for name, noticed in found.items():
                    seed = options.seed + index
                    noticed.append(await phase(server, pool, name, options.seconds, seed))
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.bodies")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a phase, at least")
    parser.add_argument("--seed", type=int, default=0)
    name = f"bodies-{datetime.now().astimezone():%Y-%m-%d}.json"
    parser.add_argument("--out", type=Path, default=RESULTS / name)
    options = parser.parse_args()
    found = asyncio.run(measure(options))
    medians = {name: figures(rounds) for name, rounds in found.items()}
    table = Table("8 streams beside", *medians["nothing"], title="milliseconds")
    for name, row in medians.items():
        table.add_row(name, *(f"{value:.0f}" for value in row.values()))
    facts = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.bodies", *sys.argv[1:]]),
        "commit": commit(),
        "seed": options.seed,
        "cores": os.cpu_count(),
    }
    answers = {
        name: dict(sum((noticed.refused for noticed in rounds), Counter[str]()))
        for name, rounds in found.items()
    }
    console = Console(highlight=False, width=140)
    console.print(table)
    for each in (facts, answers):
        for name, fact in each.items():
            console.print(f"{name}: {fact}")
    report = {"facts": facts, "medians_ms": medians, "answers": answers}
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
