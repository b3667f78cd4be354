"""The command line: serve, ask, describe, batch, bench, models, settings.

What is heavy is imported by the command that needs it, so that help and settings come at once.
"""

import asyncio
import inspect
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from functools import wraps
from importlib import metadata
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlserve import settings as settings_room
from vlserve.bench.command import bench
from vlserve.describe.errors import DescribeError
from vlserve.errors import ServeError
from vlserve.settings import MIB, Settings, WrongSettings
from vlserve.types import ChatRequest, Detail, ImageRef, Message, Role, SamplingParams

if TYPE_CHECKING:
    from vlserve.app import App

Flags = dict[str, dict[str, str]]

_STARTED_S: Final = time.monotonic()
_SERVER_HELP: Final = (
    "Ask this server. Left out: the one at grpc.host and grpc.port if it serves, else the model is "
    "loaded here."
)
_CLIENTS_HELP: Final = "Requests at a time."
_PATIENCE_HELP: Final = "Give up after so long without a sign of life, s."
_RETRY_HELP: Final = "Ask again about those that failed before."
_DESCRIBE: Final = "Describe the image"
_OUT: Final = Console(highlight=False, soft_wrap=True)
_ERR: Final = Console(stderr=True, highlight=False, soft_wrap=True)


def _say_version(*, is_wanted: bool) -> None:
    if is_wanted:
        _OUT.print(f"vlserve {metadata.version('vlserve')}")
        raise typer.Exit


cli: Final = typer.Typer(
    help="Serve a vision-language model, and ask it.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"token_normalize_func": lambda name: name.replace("-", "_")},
    pretty_exceptions_enable=False,
)


@cli.callback()
def vlserve(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Serve a vision-language model, and ask it."""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every setting; it gets those that were used as `flags`."""
    own = list(inspect.signature(command).parameters.values())
    options = [
        inspect.Parameter(
            f"{room}__{name}",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(
                    f"--{room}.{name}", help=text, metavar="", rich_help_panel=f"Settings: {room}"
                ),
            ],
        )
        for room, name, text in settings_room.names()
    ]

    @wraps(command)
    def wrapped(**arguments: Any) -> None:
        flags: Flags = {}
        for option in options:
            if (value := arguments.pop(option.name)) is not None:
                room, name = option.name.split("__")
                flags.setdefault(room, {})[name] = value
        command(flags=flags, **arguments)

    wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*(parameter for parameter in own if parameter.name != "flags"), *options]
    )
    return wrapped


@cli.command()
@with_settings
def serve(flags: Flags) -> None:
    """Serve until interrupted."""
    settings, _ = settings_room.read(flags)
    with _ERR.status("importing") as status:
        from vlserve import app  # noqa: PLC0415

        imported_s = time.monotonic() - _STARTED_S

        def ready(house: "App") -> None:
            status.stop()
            _say_ready(house, {"imports": imported_s} | house.seconds)

        asyncio.run(app.serve(settings, on_stage=status.update, on_ready=ready))
    _ERR.print("stopped")


def _say_ready(house: "App", seconds: dict[str, float]) -> None:
    info = house.info
    table = Table.grid(padding=(0, 2))
    table.add_row("model", f"{info.model}, {info.num_parameters:,} parameters, {info.engine}")
    table.add_row("device", f"{info.device}, {info.dtype}")
    memory = f"{info.weight_bytes / MIB:.1f} MiB weights, {info.cache_bytes / MIB:.1f} MiB cache"
    table.add_row("memory", f"{memory}, {info.max_running} requests at a time")
    table.add_row("address", f"grpc://{house.address}")
    table.add_row("", f"http://{house.http_address}")
    table.add_row("a picture", Text(house.first_answer))
    stages = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    _OUT.print(table)
    _OUT.print(f"ready in {time.monotonic() - _STARTED_S:.1f} s ({stages})")


@cli.command()
@with_settings
def ask(
    *,
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PICTURE", exists=True, dir_okay=False, show_default=False),
    ] = None,
    question: Annotated[
        str,
        typer.Argument(metavar="QUESTION", help="Left out after a picture: a description."),
    ],
    flags: Flags,
    server: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help=_SERVER_HELP),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens.", show_default=False)
    ] = None,
) -> None:
    """Ask about pictures."""
    settings, _ = settings_room.read(flags)
    paths = pictures or []
    # Nobody asks the name of a file: it is one more picture. Path raises where a name is too long.
    if isfile(question):  # noqa: PTH113
        paths, question = [*paths, Path(question)], _DESCRIBE
    refs = tuple(ImageRef(path.read_bytes(), field=str(path)) for path in paths)
    content: tuple[str | ImageRef, ...] = (*refs, question)
    sampling = SamplingParams(max_tokens=max_tokens or settings.limits.default_max_tokens)
    request = ChatRequest((Message(Role.USER, content),), sampling)
    asyncio.run(_print_answer(settings, server, request))


async def _print_answer(settings: Settings, server: str | None, request: ChatRequest) -> None:
    from vlserve.describe.connect import connected  # noqa: PLC0415

    async with AsyncExitStack() as opened:
        with _ERR.status("connecting") as status:
            connection = await opened.enter_async_context(
                connected(settings, server, status.update)
            )
        with _pictures_named(request):
            async with aclosing(connection.chat(request)) as chunks:
                async for chunk in chunks:
                    _OUT.out(chunk.text, end="")
                    _OUT.file.flush()
    _OUT.out("")


@contextmanager
def _pictures_named(request: ChatRequest) -> Iterator[None]:
    """A server names a picture by its place, and who asks here knows it by its file."""
    try:
        yield
    except ServeError as error:
        found = re.match(r"messages\[0\]\.parts\[(\d+)\]", error.field or "")
        part = request.messages[0].content[int(found[1])] if found else ""
        if not isinstance(part, ImageRef):
            raise
        raise ServeError(error.code, error.message, field=part.field) from None


@cli.command("describe")
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
    server: Annotated[str | None, typer.Option(metavar="HOST:PORT", help=_SERVER_HELP)] = None,
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
    from vlserve.describe.command import Job, describe  # noqa: PLC0415
    from vlserve.describe.sitting import Effort  # noqa: PLC0415

    job = Job(tuple(sources), out, question, detail, max_tokens, recursive, server)
    effort = Effort(clients, patience, retry_failed, overwrite)
    raise typer.Exit(asyncio.run(describe(settings, job, effort)))


@cli.command("batch")
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
            metavar="URL",
            help="Ask this server. Left out: the one at http.host and http.port if it is ready, "
            "else the model is loaded here.",
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
    from vlserve.describe.batch import Batch, batch  # noqa: PLC0415
    from vlserve.describe.sitting import Effort  # noqa: PLC0415

    effort = Effort(clients, patience, retry_failed, overwrite)
    raise typer.Exit(asyncio.run(batch(settings, Batch(requests, out, server), effort)))


cli.command()(bench)


@cli.command("models")
def show_models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show models known by name, what they take and whether they fit here; or one of them."""
    from vlserve import listing  # noqa: PLC0415

    listing.show(name, as_json=as_json)


@cli.command("settings")
@with_settings
def show_settings(flags: Flags) -> None:
    """Show every setting, its value and where it came from."""
    settings, origins = settings_room.read(flags)
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for room, name, _ in settings_room.names():
        value = getattr(getattr(settings, room), name)
        shown = f'"{value}"' if isinstance(value, str) else str(value)
        shown = "unset" if value is None else shown
        table.add_row(f"{room}.{name}", shown, origins[f"{room}.{name}"])
    _OUT.print(table)


def main() -> None:
    """Run a command. What the user can mend is said on stderr, with exit status 2."""
    from vlserve.models.errors import ModelError  # noqa: PLC0415

    try:
        cli()
    except (WrongSettings, DescribeError, ServeError, ModelError, OSError) as error:
        _ERR.out(f"error: {error}", style="red")
        sys.exit(2)
