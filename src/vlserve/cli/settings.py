"""The command that shows settings."""

from typing import TYPE_CHECKING

from rich.table import Table

from vlserve import settings as settings_room
from vlserve.cli.base import OUT
from vlserve.cli.flags import Flags, with_settings

if TYPE_CHECKING:
    pass


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
    OUT.print(table)
