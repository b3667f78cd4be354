"""What a picture costs those who wait: python -m bench.latency [embedded | small | tiles].

1. The same picture asked a second question: time to first token against the first question's.
2. A picture of 8 megapixels arrives while 8 streams run: their longest gap between tokens, against
   the same streams left alone.

Through the hall, encoded pictures and all. Rounds in turns, medians over them.
"""

import argparse
import asyncio
import io
import itertools
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime

import numpy as np
import torch
from PIL import Image as PILImage
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.engine import RESULTS, commit
from bench.models import MODELS, tiles
from vlserve import app
from vlserve.service.service import Service
from vlserve.settings import EngineSettings, ModelSettings, Settings
from vlserve.types import ChatRequest, ImageRef, Message, Role, SamplingParams

ASKED_MODELS = {**MODELS, "tiles": tiles}
LARGE = (3264, 2448)
NUM_STREAMS = 8
GOAL_SECOND = 0.2


def picture(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """A JPEG of soft noise, never the same twice."""
    coarse = rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    PILImage.fromarray(coarse).resize(size).save(file, "JPEG", quality=90)
    return file.getvalue()


def asked(data: bytes, question: str, max_tokens: int) -> ChatRequest:
    """One picture, one question."""
    turn = Message(Role.USER, (ImageRef(data), question))
    return ChatRequest((turn,), SamplingParams(max_tokens=max_tokens))


async def times(service: Service, request: ChatRequest) -> list[float]:
    """When each token came, s from the beginning."""
    begin, at = time.perf_counter(), []
    async with aclosing(service.chat(request)) as chunks:
        async for chunk in chunks:
            at += [time.perf_counter() - begin] * len(chunk.token_ids)
    return at


async def second_question(service: Service, data: bytes) -> tuple[float, float]:
    """Times to first token, s, of two questions about one picture."""
    first = await times(service, asked(data, "Describe the image", 1))
    second = await times(service, asked(data, "How many are there?", 1))
    return first[0], second[0]


async def longest_gap(
    service: Service, rng: np.random.Generator, large: bytes | None, num_tokens: int
) -> float:
    """Of streams that have all begun, s, with a large picture arriving at a third of their way."""
    begun = asyncio.Event()
    stamps: list[list[float]] = [[] for _ in range(NUM_STREAMS)]

    async def stream(index: int) -> None:
        request = asked(picture(rng, (320, 240)), "Describe the image", num_tokens)
        async with aclosing(service.chat(request)) as chunks:
            async for chunk in chunks:
                stamps[index] += [time.perf_counter()] * len(chunk.token_ids)
                if min(map(len, stamps)) >= num_tokens // 3:
                    begun.set()

    async def disturb() -> None:
        await begun.wait()
        if large is not None:
            await times(service, asked(large, "Describe the image", 1))

    await asyncio.gather(*map(stream, range(NUM_STREAMS)), disturb())
    # Only while all of them run: the beginning has prompts of its own.
    since = max(each[num_tokens // 3 - 1] for each in stamps)
    gaps = [b - a for each in stamps for a, b in itertools.pairwise(each) if a >= since]
    return max(gaps)


async def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """The figures of each round."""
    settings = Settings(
        model=ModelSettings(path=str(ASKED_MODELS[options.model]())),
        engine=EngineSettings(max_running=16),
    )
    rng = np.random.default_rng(options.seed)
    found: dict[str, list[float]] = {
        name: [] for name in ("first", "second", "gap alone", "gap disturbed")
    }
    async with app.open_service(settings) as service:
        await second_question(service, picture(rng, (640, 480)))
        for _ in track(range(options.rounds), "rounds", console=Console(stderr=True)):
            first, second = await second_question(service, picture(rng, (640, 480)))
            found["first"].append(first)
            found["second"].append(second)
            large = picture(rng, LARGE)
            for name, arriving in (("gap alone", None), ("gap disturbed", large)):
                gap = await longest_gap(service, rng, arriving, options.tokens)
                found[name].append(gap)
    return found


def report(found: dict[str, list[float]], options: argparse.Namespace) -> dict[str, object]:
    """Medians, and what was measured on what."""
    middle = {name: statistics.median(values) for name, values in found.items()}
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.latency", *sys.argv[1:]]),
        "commit": commit(),
        "seed": options.seed,
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "medians_s": middle,
        "second_to_first": middle["second"] / middle["first"],
        "gap_disturbed_to_alone": middle["gap disturbed"] / middle["gap alone"],
        "rounds_s": found,
    }


def show(facts: dict[str, object], middle: dict[str, float]) -> None:
    """The table."""
    table = Table("", "median, s", "ratio", "goal")
    ratio = middle["second"] / middle["first"]
    goal = f"{'met' if ratio <= GOAL_SECOND else 'missed'}: {GOAL_SECOND}"
    table.add_row("first question, to first token", f"{middle['first']:.4f}")
    table.add_row("second question", f"{middle['second']:.4f}", f"{ratio:.3f}", goal)
    table.add_row(f"longest gap of {NUM_STREAMS} streams alone", f"{middle['gap alone']:.4f}")
    gap = f"{middle['gap disturbed'] / middle['gap alone']:.2f}"
    table.add_row("while 8 megapixels arrive", f"{middle['gap disturbed']:.4f}", gap)
    console = Console()
    console.print(table)
    for name in ("date", "command", "commit", "device"):
        console.print(f"{name}: {facts[name]}", highlight=False)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.latency")
    parser.add_argument("model", nargs="?", choices=ASKED_MODELS, default="embedded")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=90, help="tokens of each stream")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print, write."""
    options = parse()
    found = asyncio.run(measure(options))
    facts = report(found, options)
    show(facts, {name: statistics.median(values) for name, values in found.items()})
    target = RESULTS / f"latency-{options.model}-{datetime.now().astimezone():%Y-%m-%d}.json"
    target.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
