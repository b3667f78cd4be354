"""`vlserve bench`: its options, a progress bar, and what it prints and writes.

What is heavy is imported once the options are known to be right.
"""

import asyncio
import json
import os
import shlex
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from vlserve.bench.run import Counts, Outcome, Run
    from vlserve.bench.targets import Target
    from vlserve.bench.workload import Workload

DEFAULT_CLIENTS: Final = 8
DEFAULT_REQUESTS: Final = 100
DEFAULT_SIZE: Final = "640x480"
NO_PICTURES: Final = "none"
MAX_EDGE: Final = 16384
OTHER_SEED: Final = 2**32
_OUT: Final = Console(highlight=False, soft_wrap=True)
_ERR: Final = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Load:
    """How a run asks: `clients` or `rate`, and `num_requests` or `duration_s`; others are None."""

    clients: int | None
    rate: float | None
    num_requests: int | None
    duration_s: float | None
    warmup: int
    timeout_s: float


def bench(
    endpoint: Annotated[
        str,
        typer.Argument(
            help="HOST:PORT or grpc://HOST:PORT, or http(s)://HOST:PORT, /v1 added where no path"
        ),
    ],
    *,
    clients: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Closed loop: so many who wait for their answers. {DEFAULT_CLIENTS}"
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Open loop: Poisson arrivals a second that wait for none.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help=f"Send so many. {DEFAULT_REQUESTS}")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Send for so many seconds; what runs then is awaited.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WIDTHxHEIGHT|none", help=f"A size, again for several. {DEFAULT_SIZE}"
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Pictures in a request.")] = 1,
    same_picture: Annotated[
        bool, typer.Option("--same-picture", help="One picture for all, not a fresh one each time.")
    ] = False,
    prompt_words: Annotated[int, typer.Option(min=1, help="Random words in a question.")] = 12,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    least_tokens: Annotated[
        int, typer.Option(min=0, help="Draw each answer's longest length from here to max-tokens.")
    ] = 0,
    ignore_eos: Annotated[
        bool,
        typer.Option("--ignore-eos", help="Ask for exactly max-tokens. Not every server knows it."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of requests and arrivals.")] = 0,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before, not counted.")] = 1,
    timeout: Annotated[float, typer.Option(help="Longest time of a request, s.")] = 600.0,
    model: Annotated[str, typer.Option(help="A name. Left out: the server's first.")] = "",
    api_key_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A file with the key.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write figures and requests.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw (or .png, .pdf).")
    ] = None,
) -> None:
    """Measure a running server: latencies, throughput and errors under load.

    Ends with status 1 where a request failed.
    """
    if clients is not None and rate is not None:
        raise typer.BadParameter("give --clients or --rate, not both")
    for name, value in (("--rate", rate), ("--duration", duration), ("--timeout", timeout)):
        if value is not None and not 0 < value < float("inf"):
            raise typer.BadParameter(f"{name} must be above 0")
    if requests is not None and duration is not None:
        raise typer.BadParameter("give --requests or --duration, not both")
    if plot_file is not None and plot_file.suffix not in (".svg", ".png", ".pdf"):
        raise typer.BadParameter("--plot wants a name that ends with .svg, .png or .pdf")
    if least_tokens > max_tokens:
        raise typer.BadParameter("--least-tokens is above --max-tokens")
    for name, file in (("--json", json_file), ("--plot", plot_file)):
        _check_writable(name, file)
    sizes = image_sizes(image or [DEFAULT_SIZE])
    need("matplotlib", "--plot", is_wanted=plot_file is not None)
    key = api_key_file.read_text().strip() if api_key_file else None

    from vlserve.bench.workload import Workload  # noqa: PLC0415

    workload = Workload(
        sizes, images, same_picture, prompt_words, max_tokens, ignore_eos, seed, model, least_tokens
    )
    load = Load(
        clients=None if rate else clients or DEFAULT_CLIENTS,
        rate=rate,
        num_requests=None if duration else requests or DEFAULT_REQUESTS,
        duration_s=duration,
        warmup=warmup,
        timeout_s=timeout,
    )
    outcomes, run = asyncio.run(_measured(connected(endpoint, model, key), workload, load))
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["vlserve", *sys.argv[1:]]),
        "vlserve": version("vlserve"),
        "endpoint": endpoint,
        "workload": asdict(workload),
        "load": asdict(load),
    }
    _tell(outcomes, run, facts, json_file, plot_file)


def _check_writable(name: str, file: Path | None) -> None:
    """Refuses a file that could not be written at the end of a run."""
    if file is None:
        return
    if not file.parent.is_dir():
        raise typer.BadParameter(f"{name} {file}: there is no folder {file.parent}")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise typer.BadParameter(f"{name} {file}: cannot be written")


def _tell(
    outcomes: "list[Outcome]",
    run: "Run",
    facts: dict[str, Any],
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    from vlserve.bench import show  # noqa: PLC0415
    from vlserve.bench.report import as_json, report  # noqa: PLC0415

    summary = report(outcomes, run.counts)
    _OUT.print(show.table(summary, outcomes))
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(summary, outcomes, facts), indent=1) + "\n")
    if plot_file is not None:
        show.plot(outcomes, plot_file)
    if summary.errors or not summary.answered:
        raise typer.Exit(1)


async def _measured(
    opened: "AbstractAsyncContextManager[Target]", workload: "Workload", load: Load
) -> "tuple[list[Outcome], Run]":
    from vlserve.bench.run import Limit, Run  # noqa: PLC0415

    limit = Limit(load.num_requests, load.duration_s)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    async with opened as target:
        with Progress(*columns, console=_ERR, transient=True) as progress:
            bar = progress.add_task("warming up", total=load.num_requests or load.duration_s)

            def on_change(counts: "Counts") -> None:
                done = counts.done if load.num_requests else counts.seconds
                said = f"{counts.done} answered, {counts.running} running, {counts.failed} failed"
                progress.update(bar, completed=done, description=said)

            if load.warmup:
                # Other requests than those that count, which no cache may have seen.
                others = replace(workload, seed=workload.seed + OTHER_SEED)
                first = Run(target, others, load.timeout_s)
                for outcome in await first.closed_loop(1, Limit(num_requests=load.warmup)):
                    if outcome.error is not None:
                        raise OSError(f"warming up: {outcome.error}: {outcome.message}")
            run = Run(target, workload, load.timeout_s, on_change)
            if load.rate is not None:
                return await run.open_loop(load.rate, limit), run
            return await run.closed_loop(load.clients or DEFAULT_CLIENTS, limit), run


def connected(
    endpoint: str, model: str, api_key: str | None
) -> "AbstractAsyncContextManager[Target]":
    """The target that an endpoint's scheme asks for."""
    if "://" not in endpoint:
        endpoint = f"grpc://{endpoint}"
    scheme, _, address = endpoint.partition("://")
    if not address or scheme not in ("grpc", "http", "https"):
        raise typer.BadParameter(
            f"{endpoint}: write HOST:PORT, or begin with grpc://, http:// or https://"
        )
    if scheme == "grpc":
        from vlserve.bench.grpc_target import grpc_target  # noqa: PLC0415

        return grpc_target(address.rstrip("/"))
    from vlserve.bench.openai_target import openai_target  # noqa: PLC0415

    return openai_target(endpoint, model, api_key)


def image_sizes(texts: list[str]) -> tuple[tuple[int, int], ...]:
    """Width and height in pixels out of each `640x480`; nothing out of `none`."""
    if texts == [NO_PICTURES]:
        return ()
    sizes = []
    for text in texts:
        width, _, height = text.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise typer.BadParameter(f"--image {text}: write it as 640x480, or none alone")
        sizes.append((int(width), int(height)))
        if not all(1 <= edge <= MAX_EDGE for edge in sizes[-1]):
            raise typer.BadParameter(f"--image {text}: an edge has 1 to {MAX_EDGE} pixels")
    return tuple(sizes)


def need(library: str, what: str, *, is_wanted: bool) -> None:
    """Refuses, with what to install, where a library of the extra `bench` is wanted and missing."""
    if is_wanted and find_spec(library) is None:
        raise typer.BadParameter(f"{what} needs {library}: pip install 'vlserve[bench]'")
