"""Who is measured, what each needs to be there, and how it is started and asked."""

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from bench.peer_servers import llama_cpp, openai_door
from vlserve.bench.grpc_target import grpc_target
from vlserve.bench.openai_target import openai_target
from vlserve.bench.targets import Target

SEQUENTIAL: Final = "sequential generate"
STATIC: Final = "static batches of 8"
TRANSFORMERS: Final = "transformers serve"
LITSERVE: Final = "LitServe"
MISTRAL: Final = "mistral.rs"
LLAMA: Final = "llama.cpp"
VLSERVE: Final = "vlserve"

Command = Callable[[Path, int, int], list[str]]
Connect = Callable[[int, Path], AbstractAsyncContextManager[Target]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure.

    `command` is told the model's folder, a port and the number of threads, which it is also given
    in the environment. `missing` says what is not installed, "" where it can run.
    """

    key: str
    name: str
    package: str
    note: str
    command: Command
    connect: Connect
    missing: Callable[[], str]

    @property
    def version(self) -> str:
        """The installed package's version, "" where it is not installed."""
        if self.key == "llamacpp":
            return llama_cpp.server_version()
        return version(self.package) if not self.missing() else ""


def _module(*arguments: str) -> Command:
    module, *options = arguments

    def command(folder: Path, port: int, threads: int) -> list[str]:
        del threads
        return [sys.executable, "-m", module, str(folder), "--port", str(port), *options]

    return command


def _door(port: int, folder: Path) -> AbstractAsyncContextManager[Target]:
    del folder
    return openai_target(f"http://127.0.0.1:{port}", openai_door.MODEL, None)


def _transformers_command(folder: Path, port: int, threads: int) -> list[str]:
    del threads
    program = str(Path(sys.executable).parent / "transformers")
    options = ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    return [program, "serve", str(folder), "--host", "127.0.0.1", *options]


def _transformers_target(port: int, folder: Path) -> AbstractAsyncContextManager[Target]:
    return openai_target(f"http://127.0.0.1:{port}", str(folder), None)


def _llama_command(folder: Path, port: int, threads: int) -> list[str]:
    weights = llama_cpp.gguf_file(folder, Path("build") / "bench" / f"{folder.name}.gguf")
    options = {
        "--model": str(weights),
        "--port": str(port),
        "--threads": str(threads),
        "--threads-batch": str(threads),
        "--parallel": "32",
        "--ctx-size": str(32 * 512),
        "--cache-ram": "0",
    }
    binary = llama_cpp.server_binary()
    assert binary is not None, "asked of a peer that is missing"  # noqa: S101
    return [binary, *(word for pair in options.items() for word in pair)]


def _vlserve_command(folder: Path, port: int, threads: int) -> list[str]:
    del threads
    options = {
        "--model.path": str(folder),
        "--grpc.port": str(port),
        "--http.port": "0",
        # Memory for 32 running requests, as the others have it, and time for whoever waits.
        "--engine.cache-mib": "2048",
        "--limits.timeout-s": "600",
    }
    words = [word for pair in options.items() for word in pair]
    return [sys.executable, "-m", "vlserve", "serve", *words]


def _vlserve_target(port: int, folder: Path) -> AbstractAsyncContextManager[Target]:
    del folder
    return grpc_target(f"127.0.0.1:{port}")


def _needs(*packages: str) -> Callable[[], str]:
    def missing() -> str:
        absent = []
        for package in packages:
            try:
                version(package)
            except PackageNotFoundError:
                absent.append(package)
        return ", ".join(absent)

    return missing


def _llama_missing() -> str:
    binary = "" if llama_cpp.server_binary() else "llama-server"
    return ", ".join(filter(None, [binary, _needs("gguf")()]))


PEERS: Final = {
    peer.key: peer
    for peer in (
        Peer(
            "sequential", SEQUENTIAL, "transformers",
            "`generate` behind a queue, one request after the other",
            _module("bench.peer_servers.generate", "--batch", "1"), _door, _needs(),
        ),
        Peer(
            "static", STATIC, "transformers",
            "`generate` for 8 at a time; a batch fills for 50 ms at most",
            _module("bench.peer_servers.generate", "--batch", "8"), _door, _needs(),
        ),
        Peer(
            "transformers", TRANSFORMERS, "transformers",
            "its own server; its continuous batching takes no pictures",
            _transformers_command, _transformers_target, _needs("fastapi", "uvicorn"),
        ),
        Peer(
            "litserve", LITSERVE, "litserve",
            "OpenAI spec, batches of 32 at most, 50 ms to fill, `generate` inside",
            _module("bench.peer_servers.lit", "--batch", "32"), _door, _needs("litserve"),
        ),
        Peer(
            "mistralrs", MISTRAL, "mistralrs",
            "the wheel's Runner, float32, 32 sequences, in one worker process",
            _module("bench.peer_servers.mistral_rs"), _door, _needs("mistralrs"),
        ),
        Peer(
            "llamacpp", LLAMA, "",
            "llama-server, 32 slots, float32. The text decoder alone, as many prompt tokens and "
            "no picture: what vision costs everyone else it is spared",
            _llama_command, llama_cpp.token_target, _llama_missing,
        ),
        Peer(
            "vlserve", VLSERVE, "vlserve", "`vlserve serve` over gRPC",
            _vlserve_command, _vlserve_target, _needs(),
        ),
    )
}  # fmt: skip
