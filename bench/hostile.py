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
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import grpc.aio
import numpy as np
from PIL import Image as PILImage
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.faults import commit
from bench.noticed import MAX_MESSAGE_MIB, Noticed, noticed_beside
from bench.serving import Served, serving
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb

RESULTS = Path(__file__).parent / "results"
NUM_TRUNCATED = 200
LARGE = (9000, 9000)


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
    async with (
        GrpcClient(server.grpc, MAX_MESSAGE_MIB) as attacker,
        noticed_beside(server, seed) as noticed,
    ):
        begin = time.perf_counter()
        answers = await asyncio.gather(*(refusal(attacker, data) for data in hostile))
        noticed.refused.update(answers)
        noticed.hostile_s = time.perf_counter() - begin
        await asyncio.sleep(max(0.0, seconds - noticed.hostile_s))
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
