"""A real `vlserve serve` for a measurement."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_SCHEMES = ("grpc://", "http://")


@dataclass(frozen=True, slots=True)
class Served:
    """Where it listens, and the number of its process."""

    grpc: str
    http: str
    pid: int


@asynccontextmanager
async def serving(*flags: str) -> AsyncIterator[Served]:
    """A server on free ports, ready while the context lasts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vlserve", "serve", "--grpc.port", "0", "--http.port", "0", *flags),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None  # noqa: S101  it is a pipe
    found: dict[str, str] = {}
    async for line in process.stdout:
        for word in line.decode().split():
            found |= {scheme: word[len(scheme) :] for scheme in _SCHEMES if word.startswith(scheme)}
        if line.startswith(b"ready"):
            break
    try:
        yield Served(found["grpc://"], found["http://"], process.pid)
    finally:
        process.terminate()
        await process.wait()
