"""The command that asks about pictures."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from os.path import isfile
from pathlib import Path
from typing import Annotated

import typer

from vlserve import example
from vlserve import settings as settings_room
from vlserve.cli.base import ERR, OUT, SERVER_HELP
from vlserve.cli.flags import Flags, with_settings
from vlserve.errors import ServeError
from vlserve.settings import Settings
from vlserve.types import ChatRequest, ImageRef, Message, Role, SamplingParams


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
        typer.Option(metavar="HOST:PORT", help=SERVER_HELP),
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
        paths, question = [*paths, Path(question)], example.QUESTION
    refs = tuple(ImageRef(path.read_bytes(), field=str(path)) for path in paths)
    content: tuple[str | ImageRef, ...] = (*refs, question)
    sampling = SamplingParams(max_tokens=max_tokens or settings.limits.default_max_tokens)
    request = ChatRequest((Message(Role.USER, content),), sampling)
    asyncio.run(_print_answer(settings, server, request))


async def _print_answer(settings: Settings, server: str | None, request: ChatRequest) -> None:
    from vlserve.describe.connect import connected  # noqa: PLC0415

    async with AsyncExitStack() as opened:
        with ERR.status("connecting") as status:
            connection = await opened.enter_async_context(
                connected(settings, server, status.update)
            )
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
