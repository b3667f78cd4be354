"""What a door costs: python -m bench.doors [--requests 2000] [--rounds 5].

The echo engine answers eight words, so that what is left is the door, the hall and the wall, beside
bare servers of the same libraries that answer as much: grpc.aio, and an ASGI app on uvicorn. And
a picture of 5 MB, as bytes over gRPC and in base64 in JSON.

One process asks all of them, in rounds in which each comes once, every round another one first.
With `--before PYTHON`, the interpreter of another checkout, its HTTP door is one of them.
"""

import argparse
import asyncio
import io
import itertools
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image as PILImage
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.door_load import Caller, Load, grpc_caller, http_caller, measured
from bench.engine import RESULTS, commit

CLIENTS = (1, 64)
BEFORE = "vlserve HTTP before"
PICTURE_SIDE = 1300  # of noise, which no format makes smaller: 5 MB
_READY_S = 60.0
_POLL_S = 0.1


@dataclass(slots=True)
class Cell:
    """One way in, to one server, by so many callers at once. Times in seconds, of all rounds."""

    way: str
    server: str
    port: int
    num_clients: int
    caller: Caller
    is_picture: bool = False
    times_s: list[float] = field(default_factory=list)
    wall_s: float = 0.0

    def add(self, load: Load) -> None:
        """The times of one round more."""
        self.times_s += load.times_s
        self.wall_s += load.wall_s

    def figures(self) -> dict[str, float]:
        """Percentiles in milliseconds, and answers a second."""
        p50, p99 = np.percentile(self.times_s, (50, 99)) * 1000
        return {
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "answers_per_s": len(self.times_s) / self.wall_s,
        }


def noise(seed: int) -> bytes:
    """A PNG of 5 MB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (PICTURE_SIDE, PICTURE_SIDE, 3), np.uint8)
    file = io.BytesIO()
    PILImage.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def cells(ports: dict[str, int], picture: bytes) -> list[Cell]:
    """All that is measured at the servers that are there."""
    ways = {
        "gRPC": (("bare grpc.aio", "vlserve gRPC"), grpc_caller),
        "HTTP": (("bare ASGI", BEFORE, "vlserve HTTP"), http_caller),
    }
    made = []
    for name, (at, caller) in ways.items():
        for server in at:
            if (port := ports.get(server)) is None:
                continue
            for is_stream, num_clients in itertools.product((False, True), CLIENTS):
                kind = {"gRPC": ("unary", "stream"), "HTTP": ("JSON", "SSE")}[name][is_stream]
                asking = caller(is_stream=is_stream)
                made.append(Cell(f"{name} {kind}", server, port, num_clients, asking))
            way = "5 MB as bytes" if name == "gRPC" else "5 MB in base64"
            asking = caller(is_stream=False, picture=picture)
            made.append(Cell(way, server, port, 1, asking, is_picture=True))
    return made


async def run(todo: Sequence[Cell], options: argparse.Namespace) -> None:
    """Every cell once a round."""
    for first in track(range(options.rounds), "rounds", console=Console(stderr=True)):
        shift = first * len(todo) // options.rounds
        for cell in (*todo[shift:], *todo[:shift]):
            num_requests = options.pictures if cell.is_picture else options.requests
            cell.add(await measured(cell.caller, cell.port, cell.num_clients, num_requests))


@contextmanager
def servers(before: str = "") -> Iterator[dict[str, int]]:
    """The ports of all that could be started, by name; said where one could not. `before` is the
    interpreter of another checkout."""
    with ExitStack() as closing:
        ports = {name: free_port() for name in ("bare grpc.aio", "vlserve gRPC", "vlserve HTTP")}
        closing.enter_context(started("bench.door_servers", "grpc", str(ports["bare grpc.aio"])))
        wait_for(ports["bare grpc.aio"])
        here = (sys.executable, ports["vlserve gRPC"], ports["vlserve HTTP"])
        closing.enter_context(serving(*here))
        if before:
            ports[BEFORE] = free_port()
            closing.enter_context(serving(before, free_port(), ports[BEFORE]))
        if not listens(ports["vlserve HTTP"]):
            say("this server has no HTTP port: HTTP and SSE are left out")
            del ports["vlserve HTTP"]
        elif find_spec("uvicorn") is None:
            say("uvicorn is not installed: the bare ASGI server is left out")
        else:
            ports["bare ASGI"] = free_port()
            closing.enter_context(started("bench.door_servers", "asgi", str(ports["bare ASGI"])))
            wait_for(ports["bare ASGI"])
        yield ports


@contextmanager
def serving(python: str, grpc_port: int, http_port: int) -> Iterator[None]:
    """A server with the echo engine, ready while the context lasts."""
    flags = {
        "engine.kind": "echo",
        "engine.max-running": max(CLIENTS),
        "grpc.port": grpc_port,
        "http.port": http_port,
    }
    serve = [f"--{name}={value}" for name, value in flags.items()]
    with started("vlserve", "serve", *serve, python=python) as output:
        if not any("ready in" in line for line in output):
            raise RuntimeError("the server ended before it was ready")
        yield


@contextmanager
def started(module: str, *arguments: str, python: str = sys.executable) -> Iterator[IO[str]]:
    """What a program of ours prints, which runs while the context lasts."""
    command = [python, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None  # noqa: S101  it was asked for
        try:
            yield process.stdout
        finally:
            process.terminate()


def free_port() -> int:
    """One that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(port: int) -> None:
    """Returns once somebody listens. Raises TimeoutError."""
    for _ in range(round(_READY_S / _POLL_S)):
        if listens(port):
            return
        time.sleep(_POLL_S)
    raise TimeoutError("a server did not start")


def say(line: str) -> None:
    """To whoever watches."""
    print(line, file=sys.stderr)


def report(done: Sequence[Cell], options: argparse.Namespace, picture: bytes) -> dict[str, object]:
    """The figures, and what was measured on what."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.doors", *sys.argv[1:]]),
        "commit": commit(),
        "seed": options.seed,
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "requests_a_round": options.requests,
        "pictures_a_round": options.pictures,
        "rounds": options.rounds,
        "picture_bytes": len(picture),
        "cells": [
            {"way": cell.way, "server": cell.server, "clients": cell.num_clients} | cell.figures()
            for cell in done
        ],
    }


def show(facts: dict[str, object], done: Sequence[Cell]) -> None:
    """The table, the ways in one below the other."""
    table = Table("", "server", "clients", "p50, ms", "p99, ms", "answers/s")
    for cell in sorted(done, key=lambda each: (each.is_picture, each.way, each.num_clients)):
        found = cell.figures()
        table.add_row(
            cell.way,
            cell.server,
            str(cell.num_clients),
            *(f"{found[name]:.2f}" for name in ("p50_ms", "p99_ms")),
            f"{found['answers_per_s']:.0f}",
        )
    console = Console()
    console.print(table)
    for name in ("date", "command", "commit", "device"):
        console.print(f"{name}: {facts[name]}", highlight=False)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.doors")
    parser.add_argument("--requests", type=int, default=1000, help="of a cell in a round")
    parser.add_argument("--pictures", type=int, default=20, help="of a cell in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--before", default="", help="interpreter of another checkout")
    name = f"doors-{datetime.now().astimezone():%Y-%m-%d}.json"
    parser.add_argument("--out", type=Path, default=RESULTS / name)
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print, write."""
    options = parse()
    picture = noise(options.seed)
    with servers(options.before) as ports:
        todo = cells(ports, picture)
        asyncio.run(run(todo, options))
    facts = report(todo, options, picture)
    show(facts, todo)
    options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
