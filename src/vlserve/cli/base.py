"""What every command stands on: the program itself, and where it prints."""

from importlib import metadata
from typing import Annotated, Final

import typer
from rich.console import Console

SERVER_METAVAR: Final = "HOST:PORT|URL"
SERVER_HELP: Final = (
    "Ask this server, over gRPC. Left out: the one at grpc.host and grpc.port if it serves, else "
    "the model is loaded here."
)


OUT: Final = Console(highlight=False, soft_wrap=True)


ERR: Final = Console(stderr=True, highlight=False, soft_wrap=True)


def _say_version(*, is_wanted: bool) -> None:
    if is_wanted:
        OUT.print(f"vlserve {metadata.version('vlserve')}")
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
