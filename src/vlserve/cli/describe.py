"""The commands that ask about many pictures, or answer many requests."""

import asyncio
from pathlib import Path
from typing import Annotated, Final

import typer

from vlserve import logs
from vlserve import settings as settings_room
from vlserve.cli.base import SERVER_HELP, SERVER_METAVAR
from vlserve.cli.flags import Flags, with_settings
from vlserve.types import Detail

_CLIENTS_HELP: Final = "Requests at a time."


_PATIENCE_HELP: Final = "Give up after so long without a sign of life, s."


_RETRY_HELP: Final = "Ask again about those that failed before."


@with_settings
def describe_pictures(
    *,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders, patterns such as 'photos/**/*.jpg', pictures, and files that list "
            "pictures, a path a line.",
            show_default=False,
        ),
    ],
    flags: Flags,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Ends with .jsonl, .csv or .parquet.")
    ] = Path("descriptions.jsonl"),
    question: Annotated[
        str | None,
        typer.Option(help="What to ask of each. Left out: a description.", show_default=False),
    ] = None,
    detail: Annotated[
        Detail, typer.Option(help="low: look once at each as a whole, for fewer tokens.")
    ] = Detail.AUTO,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens.", show_default=False)
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Folders in folders as well.")
    ] = False,
    server: Annotated[str | None, typer.Option(metavar=SERVER_METAVAR, help=SERVER_HELP)] = None,
    clients: Annotated[int, typer.Option(min=1, help=_CLIENTS_HELP)] = 16,
    patience: Annotated[float, typer.Option(min=0, help=_PATIENCE_HELP)] = 600.0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help=_RETRY_HELP)] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace rows that were made with another question."),
    ] = False,
) -> None:
    """Ask one question about many pictures, into a file of rows.

    Killed at any moment, the same command goes on from there. Ends with status 1 where a picture
    failed.
    """
    settings, _ = settings_room.read(flags)
    logs.to_stderr()
    from vlserve.describe.command import Job, describe  # noqa: PLC0415
    from vlserve.describe.sitting import Effort  # noqa: PLC0415

    job = Job(tuple(sources), out, question, detail, max_tokens, recursive, server)
    effort = Effort(clients, patience, retry_failed, overwrite)
    raise typer.Exit(asyncio.run(describe(settings, job, effort)))


@with_settings
def send_batch(
    *,
    requests: Annotated[
        Path,
        typer.Argument(
            metavar="IN.jsonl", exists=True, dir_okay=False, help="OpenAI's batch input file."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl")],
    flags: Flags,
    server: Annotated[
        str | None,
        typer.Option(
            metavar=SERVER_METAVAR,
            help="Ask this server, over HTTP. Left out: the one at http.host and http.port if it "
            "is ready, else the model is loaded here.",
        ),
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help=_CLIENTS_HELP)] = 16,
    patience: Annotated[float, typer.Option(min=0, help=_PATIENCE_HELP)] = 600.0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help=_RETRY_HELP)] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there without its journal.")
    ] = False,
) -> None:
    """Answer a file of chat completion requests, as OpenAI's batch API does.

    Killed at any moment, the same command goes on from there. Ends with status 1 where a request
    failed.
    """
    settings, _ = settings_room.read(flags)
    logs.to_stderr()
    from vlserve.describe.batch import Batch, batch  # noqa: PLC0415
    from vlserve.describe.sitting import Effort  # noqa: PLC0415

    effort = Effort(clients, patience, retry_failed, overwrite)
    raise typer.Exit(asyncio.run(batch(settings, Batch(requests, out, server), effort)))
