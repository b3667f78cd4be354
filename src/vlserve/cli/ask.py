"""The command that asks about pictures."""

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from vlserve import example, logs
from vlserve import settings as settings_room
from vlserve.cli.base import ERR, OUT, SERVER_HELP, SERVER_METAVAR
from vlserve.cli.flags import Flags, with_settings
from vlserve.errors import ServeError
from vlserve.models.families import DEMONSTRATION, EMBEDDED
from vlserve.settings import Settings
from vlserve.types import ChatRequest, ImageRef, Message, Role, SamplingParams

_STDIN: Final = "-"
# One word that begins as a path does or ends as a file of pictures does.
_LIKE_A_PATH: Final = re.compile(
    r"(?:~|\.{0,2}/)\S*|\S+\.(?:avif|bmp|gif|hei[cf]|jfif|jpe?g|m4v|mkv|mov|mp4|pdf|png|svg|tiff?"
    r"|webm|webp)",
    re.IGNORECASE,
)


@with_settings
def ask(
    *,
    pictures: Annotated[
        list[str] | None,
        typer.Argument(metavar="PICTURE", show_default=False, help="A file, or - for stdin."),
    ] = None,
    question: Annotated[
        str,
        typer.Argument(metavar="QUESTION", help="Left out after a picture: a description."),
    ],
    flags: Flags,
    server: Annotated[
        str | None,
        typer.Option(metavar=SERVER_METAVAR, help=SERVER_HELP),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens.", show_default=False)
    ] = None,
) -> None:
    """Ask about pictures."""
    settings, _ = settings_room.read(flags)
    logs.to_stderr()
    names = pictures or []
    for name in names:
        if not _is_file(name):
            raise _no_picture(name)
    if _is_picture(question):
        names, question = [*names, question], example.QUESTION
    if names.count(_STDIN) > 1:
        raise typer.BadParameter("- stands for stdin, which holds one picture: write it once")
    refs = tuple(ImageRef(_content(name), field=name) for name in names)
    content: tuple[str | ImageRef, ...] = (*refs, question)
    sampling = SamplingParams(max_tokens=max_tokens or settings.limits.default_max_tokens)
    request = ChatRequest((Message(Role.USER, content),), sampling)
    asyncio.run(_print_answer(settings, server, request))


def _is_picture(word: str) -> bool:
    """Whether the last word is one more picture: nobody asks the name of a file.

    Raises typer.BadParameter for what looks like a path and is none.
    """
    if _is_file(word):
        return True
    if _LIKE_A_PATH.fullmatch(word):
        raise _no_picture(word)
    return False


def _is_file(name: str) -> bool:
    # Not by methods of Path, which raise for a name that is too long.
    return name == _STDIN or (os.path.exists(name) and not os.path.isdir(name))  # noqa: PTH110, PTH112


def _no_picture(name: str) -> typer.BadParameter:
    if os.path.isdir(name):  # noqa: PTH112
        return typer.BadParameter(
            f"{name} is a folder: `vlserve describe {name}` asks about all pictures in it"
        )
    return typer.BadParameter(f"{name}: no such file. The question comes last, in one argument")


def _content(name: str) -> bytes:
    return sys.stdin.buffer.read() if name == _STDIN else Path(name).read_bytes()


async def _print_answer(settings: Settings, server: str | None, request: ChatRequest) -> None:
    from vlserve.describe.connect import connected  # noqa: PLC0415

    async with AsyncExitStack() as opened:
        with ERR.status("connecting") as status:
            connection = await opened.enter_async_context(
                connected(settings, server, status.update)
            )
        if connection.model == EMBEDDED:
            ERR.print(DEMONSTRATION, style="dim")
        with _pictures_named(request):
            async with aclosing(connection.chat(request)) as chunks:
                async for chunk in chunks:
                    OUT.out(chunk.text, end="")
                    OUT.file.flush()
    OUT.out("")


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
