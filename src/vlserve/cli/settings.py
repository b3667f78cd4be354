"""The command that shows settings."""

from rich.table import Table

from vlserve import settings as settings_room
from vlserve.cli.base import OUT
from vlserve.cli.flags import Flags, with_settings


@with_settings
def show_settings(flags: Flags) -> None:
    """Show every setting, its value, where it came from and what it is.

    Each is a flag of every command (--limits.max_images 4), a variable
    (VLSERVE_LIMITS__MAX_IMAGES=4) and a line of vlserve.toml.
    """
    settings, origins = settings_room.read(flags)
    table = Table("setting", "value", "from", "what it is", box=None, pad_edge=False)
    for room, name, text in settings_room.names():
        value = getattr(getattr(settings, room), name)
        shown = f'"{value}"' if isinstance(value, str) else str(value)
        shown = "unset" if value is None else shown
        table.add_row(f"{room}.{name}", shown, origins[f"{room}.{name}"], text)
    OUT.print(table)
