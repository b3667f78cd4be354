"""A flag for every setting."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Final

import typer

from vlserve import settings as settings_room

Flags = dict[str, dict[str, str]]

# Those that help lists: what a first run changes. The others are listed by `vlserve settings`.
_SHOWN: Final = ("model.path", "engine.device", "engine.dtype", "grpc.port", "http.port")
_PANEL: Final = "Settings, each a flag: `vlserve settings` lists all"


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
                    f"--{room}.{name}",
                    help=text,
                    show_default=str(settings_room.default(room, name)),
                    metavar="",
                    hidden=f"{room}.{name}" not in _SHOWN,
                    rich_help_panel=_PANEL,
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
