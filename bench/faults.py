"""The engine's process is killed and frozen under load: python -m bench.faults.

A real server and real callers. In each trial every call that runs or waits must end in one of two
ways: told UNAVAILABLE in time, or answered as it is alone. Health must follow.
"""

import argparse
import asyncio
import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

import grpc.aio
from PIL import Image as PILImage
from rich.console import Console
from rich.table import Table

from bench.serving import serving
from bench.workload import QUESTIONS, picture
from vlserve.doors.grpc.client import GrpcClient
from vlserve.doors.grpc.pb import vision_pb2 as pb

RESULTS = Path(__file__).parent / "results"
TOLD_S = {signal.SIGKILL: 2.0, signal.SIGSTOP: 10.0}
NOT_SERVING_S = 1.0  # after the death, which after SIGSTOP is when the last call was told
SERVING_S = 90.0  # to load a model on a machine that does other things as well
NUM_CLIENTS = 32
_POLL_S = 0.02
_WORKER = b"engines."  # in the command line of the process behind the wall


@dataclass(slots=True, eq=False)
class Call:
    """One call and how it ended: with `text`, or with `code`. Times in seconds."""

    wire: pb.VisionRequest
    text: str = ""
    num_ends: int = 0
    code: str = ""
    ended_s: float = 0.0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Trial:
    """What one blow did. Times in seconds after it; counts of calls that were inside then."""

    signal: str
    num_told: int
    told_s: float
    num_answered: int
    num_failed: int
    num_wrong: int
    not_serving_s: float
    serving_s: float
    broken: list[str] = field(default_factory=list)


class Crowd:
    """Callers who ask again and again, and what they were answered when they were alone."""

    def __init__(self, address: str, requests: Sequence[pb.VisionRequest], seed: int) -> None:
        self._client = GrpcClient(address, 64)
        self._requests = requests
        self._rng = random.Random(seed)
        self._alone: dict[bytes, str] = {}
        self._calls: set[Call] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for wire in self._requests:
            self._alone[wire.SerializeToString()] = (await self._client.chat(wire)).text
        self._tasks = [asyncio.create_task(self._keep_asking()) for _ in range(NUM_CLIENTS)]
        return self

    async def __aexit__(self, *raised: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.__aexit__(None, None, None)

    async def strike(self, pid: int, number: signal.Signals) -> Trial:
        """Send the signal to the process, and wait until all who were inside have ended and the
        server serves again."""
        await asyncio.sleep(self._rng.uniform(0.2, 1.2))
        inside = list(self._calls)
        struck_s = time.monotonic()
        os.kill(pid, number)
        not_serving_s, serving_s = await self._follow_health(struck_s)
        async with asyncio.timeout(SERVING_S):
            await asyncio.gather(*(call.is_over.wait() for call in inside))
        told = [call.ended_s - struck_s for call in inside if call.code == "UNAVAILABLE"]
        answered = [call for call in inside if not call.code]
        failed = [call for call in inside if call.code not in ("", "UNAVAILABLE")]
        wrong = [call for call in answered if not self._is_right(call)]
        told_s = max(told, default=0.0)
        death_s = 0.0 if number is signal.SIGKILL else min(told, default=0.0)
        rules = {
            "somebody was told late": told_s <= TOLD_S[number],
            "somebody got a wrong answer, or two": not wrong,
            "somebody failed": not failed,
            "nobody waited": len(answered) > 0,
            "nobody was told": len(told) > 0,
            "health said SERVING for too long": not_serving_s - death_s <= NOT_SERVING_S,
            "health never said SERVING again": serving_s < SERVING_S,
        }
        return Trial(
            number.name,
            len(told),
            told_s,
            len(answered),
            len(failed),
            len(wrong),
            not_serving_s,
            serving_s,
            [rule for rule, is_kept in rules.items() if not is_kept],
        )

    async def _follow_health(self, struck_s: float) -> tuple[float, float]:
        moments = []
        for is_serving in (False, True):
            while await self._client.is_serving() is not is_serving:
                await asyncio.sleep(_POLL_S)
                if time.monotonic() - struck_s > SERVING_S:
                    return SERVING_S, SERVING_S
            moments.append(time.monotonic() - struck_s)
        return moments[0], moments[1]

    async def _keep_asking(self) -> None:
        while True:
            call = Call(self._rng.choice(self._requests))
            self._calls.add(call)
            try:
                async for piece in self._client.chat_stream(call.wire):
                    call.text += piece.text
                    call.num_ends += bool(piece.finish_reason)
            except grpc.aio.AioRpcError as error:
                call.code = error.code().name
            call.ended_s = time.monotonic()
            call.is_over.set()
            self._calls.discard(call)

    def _is_right(self, call: Call) -> bool:
        return call.num_ends == 1 and call.text == self._alone[call.wire.SerializeToString()]


def worker_of(pid: int) -> int:
    """The number of the engine's process behind the server `pid`, the newest that lives."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            with suppress(FileNotFoundError):
                if _WORKER in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return max(found)


def drawn_requests(seed: int, count: int) -> list[pb.VisionRequest]:
    """Questions about drawn pictures."""
    rng = random.Random(seed)
    requests = []
    for _ in range(count):
        file = io.BytesIO()
        PILImage.fromarray(picture(rng).pixels).save(file, "PNG")
        requests.append(pb.VisionRequest(image=file.getvalue(), prompt=rng.choice(QUESTIONS)))
    return requests


async def trials(
    crowd: Crowd, find_worker: Callable[[], int], blows: Sequence[signal.Signals]
) -> list[Trial]:
    """One after the other, each said as it ends."""
    done = []
    for blow in blows:
        done.append(await crowd.strike(find_worker(), blow))
        print(f"{len(done)}/{len(blows)} {asdict(done[-1])}", file=sys.stderr)
    return done


def table(done: Sequence[Trial]) -> Table:
    """A row a trial, the worst last."""
    columns: dict[str, Callable[[Trial], object]] = {
        "signal": lambda t: t.signal,
        "told": lambda t: t.num_told,
        "last told, s": lambda t: f"{t.told_s:.2f}",
        "answered after": lambda t: t.num_answered,
        "failed": lambda t: t.num_failed,
        "wrong": lambda t: t.num_wrong,
        "NOT_SERVING, s": lambda t: f"{t.not_serving_s:.2f}",
        "SERVING, s": lambda t: f"{t.serving_s:.2f}",
        "broken": lambda t: "; ".join(t.broken),
    }
    shown = Table(*columns)
    for trial in done:
        shown.add_row(*(str(value(trial)) for value in columns.values()))
    return shown


async def measure(options: argparse.Namespace) -> list[Trial]:
    """All trials against one server."""
    blows = [signal.SIGKILL] * options.kills + [signal.SIGSTOP] * options.stops
    random.Random(options.seed).shuffle(blows)
    requests = drawn_requests(options.seed, options.requests)
    async with (
        serving("--engine.max-running", str(options.max_running)) as server,
        Crowd(server.grpc, requests, options.seed) as crowd,
    ):
        return await trials(crowd, lambda: worker_of(server.pid), blows)


def commit() -> str:
    """The commit that was struck, marked when the files differ from it."""
    run = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603


def main() -> None:
    """Strike, print the table, write JSON; exit status 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.faults")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=5)
    parser.add_argument("--requests", type=int, default=24, help="different ones")
    parser.add_argument("--max-running", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    done = asyncio.run(measure(options))
    num_held = sum(not trial.broken for trial in done)
    facts = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.faults", *sys.argv[1:]]),
        "commit": commit(),
        "seed": options.seed,
        "cores": os.cpu_count(),
        "clients": NUM_CLIENTS,
        "max_running": options.max_running,
        "tried": len(done),
        "held": num_held,
    }
    console = Console(highlight=False, width=110)
    console.print(table(done))
    for name, fact in facts.items():
        console.print(f"{name}: {fact}")
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"faults-{datetime.now().astimezone():%Y-%m-%d}.json"
    report = {"facts": facts, "trials": [asdict(trial) for trial in done]}
    target.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(num_held != len(done))


if __name__ == "__main__":
    main()
