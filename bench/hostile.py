"""Hostile pictures beside running streams: python -m bench.hostile.

A real server, 8 streams, and health polled at both doors. In turns the streams run alone, and
beside a picture of 9000 x 9000 pixels and 200 truncated JPEGs that arrive at once. What counts is
what the streams and health notice of it, and that every hostile picture is refused by its name.
"""

import argparse
import asyncio
import io
import json
import os
import random
import shlex
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import grpc.aio
import httpx2
import numpy as np
from PIL import Image as PILImage
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.faults import commit, drawn_requests
from bench.serving import Served, serving
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb

RESULTS = Path(__file__).parent / "results"
NUM_STREAMS = 8
NUM_TRUNCATED = 200
LARGE = (9000, 9000)
MAX_MESSAGE_MIB = 1024
_POLL_S = 0.01


@dataclass(slots=True)
class Noticed:
    """What one phase did. `gaps_s` between the tokens of all streams, `health_s` by door."""

    gaps_s: list[float] = field(default_factory=list)
    health_s: dict[str, list[float]] = field(default_factory=lambda: {"gRPC": [], "HTTP": []})
    refused: Counter[str] = field(default_factory=Counter)
    hostile_s: float = 0.0


def truncated(seed: int) -> list[bytes]:
    """JPEGs of noise, each cut at another place."""
    rng = random.Random(seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    file = io.BytesIO()
    PILImage.fromarray(pixels).save(file, "JPEG")
    whole = file.getvalue()
    return [whole[: rng.randrange(1, len(whole) - 64)] for _ in range(NUM_TRUNCATED)]


def large() -> bytes:
    """One colour: a small file that is 243 MB of pixels."""
    file = io.BytesIO()
    PILImage.new("RGB", LARGE, "navy").save(file, "PNG")
    return file.getvalue()


async def stream(
    client: GrpcClient, wire: pb.VisionRequest, begun: Callable[[], None], end: asyncio.Event
) -> list[float]:
    """Gaps between the pieces of answers, one answer after the other until `end`, s."""
    gaps: list[float] = []
    while not end.is_set():
        stamps = []
        async for _ in client.chat_stream(wire):
            stamps.append(time.perf_counter())
            begun()
            if end.is_set():
                break
        gaps += [after - before for before, after in pairwise(stamps)]
    return gaps


async def poll(ask: Callable[[], Awaitable[bool]], times: list[float], end: asyncio.Event) -> None:
    """Ask until `end`, and note how long each took."""
    while not end.is_set():
        begin = time.perf_counter()
        if not await ask():
            raise SystemExit("health said that it does not serve")
        times.append(time.perf_counter() - begin)
        await asyncio.sleep(_POLL_S)


async def refusal(client: GrpcClient, data: bytes) -> str:
    """How the server answers a picture: a status and its text, or 'answered'."""
    wire = pb.VisionRequest(image=data, prompt="What is it?", sampling=pb.Sampling(max_tokens=4))
    try:
        await client.chat(wire)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "answered"


async def phase(server: Served, hostile: Sequence[bytes], seconds: float, seed: int) -> Noticed:
    """The streams, and after a second the hostile pictures; `seconds` where there are none."""
    noticed, end, running = Noticed(), asyncio.Event(), asyncio.Event()
    requests = drawn_requests(seed, NUM_STREAMS)
    for wire in requests:
        wire.sampling.max_tokens = wire.sampling.min_tokens = 400
    async with (
        GrpcClient(server.grpc, MAX_MESSAGE_MIB) as streams,
        GrpcClient(server.grpc, MAX_MESSAGE_MIB) as attacker,
        GrpcClient(server.grpc, MAX_MESSAGE_MIB) as watcher,
        httpx2.AsyncClient(base_url=f"http://{server.http}") as http,
        asyncio.TaskGroup() as tasks,
    ):

        async def lives() -> bool:
            return (await http.get("/health/live")).status_code == 200

        asked = [tasks.create_task(stream(streams, w, running.set, end)) for w in requests]
        await running.wait()
        await asyncio.sleep(1.0)
        for door, ask in (("gRPC", watcher.is_serving), ("HTTP", lives)):
            tasks.create_task(poll(ask, noticed.health_s[door], end))
        begin = time.perf_counter()
        if hostile:
            answers = await asyncio.gather(*(refusal(attacker, data) for data in hostile))
            noticed.refused.update(answers)
        noticed.hostile_s = time.perf_counter() - begin
        await asyncio.sleep(max(0.0, seconds - noticed.hostile_s))
        end.set()
        noticed.gaps_s = [gap for gaps in await asyncio.gather(*asked) for gap in gaps]
    return noticed


def figures(rounds: Sequence[Noticed]) -> dict[str, float]:
    """Medians over the rounds."""
    columns: dict[str, Callable[[Noticed], float]] = {
        "longest gap, s": lambda n: max(n.gaps_s),
        "p99 gap, s": lambda n: float(np.percentile(n.gaps_s, 99)),
        "gRPC health p99, s": lambda n: float(np.percentile(n.health_s["gRPC"], 99)),
        "HTTP health p99, s": lambda n: float(np.percentile(n.health_s["HTTP"], 99)),
    }
    return {name: statistics.median(map(value, rounds)) for name, value in columns.items()}


async def measure(options: argparse.Namespace) -> dict[str, list[Noticed]]:
    """Rounds in turns."""
    hostile = [large(), *truncated(options.seed)]
    found: dict[str, list[Noticed]] = {"alone": [], "beside them": []}
    flags = (
        *("--limits.max-waiting", str(2 * NUM_TRUNCATED)),
        *("--limits.max-image-pixels", str(LARGE[0] * LARGE[1])),
    )
    async with serving(*flags) as server:
        for index in track(range(options.rounds), "rounds", console=Console(stderr=True)):
            for name, pictures in (("alone", []), ("beside them", hostile)):
                seed = options.seed + index
                noticed = await phase(server, pictures, options.seconds, seed)
                found[name].append(noticed)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.hostile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a phase, at least")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = asyncio.run(measure(options))
    medians = {name: figures(rounds) for name, rounds in found.items()}
    table = Table("8 streams", *medians)
    for name in medians["alone"]:
        table.add_row(name, *(f"{column[name]:.4f}" for column in medians.values()))
    answers = sum((noticed.refused for noticed in found["beside them"]), Counter[str]())
    facts = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.hostile", *sys.argv[1:]]),
        "commit": commit(),
        "seed": options.seed,
        "cores": os.cpu_count(),
        "answers": dict(answers),
        "hostile pictures answered in, s": [n.hostile_s for n in found["beside them"]],
    }
    console = Console(highlight=False, width=110)
    console.print(table)
    for name, fact in facts.items():
        console.print(f"{name}: {fact}")
    rounds = {name: [figures([noticed]) for noticed in each] for name, each in found.items()}
    target = RESULTS / f"hostile-{datetime.now().astimezone():%Y-%m-%d}.json"
    report = {"facts": facts, "medians": medians, "rounds": rounds}
    target.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(any(not answer.startswith(("answered", "INVALID_ARGUMENT")) for answer in answers))


if __name__ == "__main__":
    main()
