"""A real `vlserve serve` for a measurement."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_SCHEMES = ("grpc://", "http://")


@asynccontextmanager
async def serving(*flags: str) -> AsyncIterator[tuple[str, str]]:
    """The gRPC and the HTTP address of a server on free ports, ready while the context lasts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vlserve", "serve", "--grpc.port", "0", "--http.port", "0", *flags),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None  # noqa: S101  it is a pipe
    found: dict[str, str] = {}
    async for line in process.stdout:
        for word in line.decode().replace(",", " ").split():
            found |= {scheme: word[len(scheme) :] for scheme in _SCHEMES if scheme in word}
        if line.startswith(b"ready"):
            break
    try:
        yield found["grpc://"], found["http://"]
    finally:
        process.terminate()
        await process.wait()
