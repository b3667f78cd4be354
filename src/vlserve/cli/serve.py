"""The command that serves."""

import asyncio
import time
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from vlserve import logs
from vlserve import settings as settings_room
from vlserve.cli.base import ERR, OUT
from vlserve.cli.flags import Flags, with_settings
from vlserve.models.families import DEMONSTRATION, EMBEDDED
from vlserve.settings import MIB

if TYPE_CHECKING:
    from vlserve.app import App


_STARTED_S: Final = time.monotonic()


@with_settings
def serve(flags: Flags) -> None:
    """Serve until interrupted."""
    settings, _ = settings_room.read(flags)
    logs.to_stderr()
    from vlserve.launch import spawn_engine  # noqa: PLC0415

    # The engine's process imports for seconds: it begins before this one imports the doors.
    engine = spawn_engine(settings)
    with ERR.status("importing") as status:
        from vlserve import app  # noqa: PLC0415

        imported_s = time.monotonic() - _STARTED_S

        def ready(house: "App") -> None:
            status.stop()
            _say_ready(house, {"imports": imported_s} | house.seconds)

        asyncio.run(app.serve(settings, engine, on_stage=status.update, on_ready=ready))
    ERR.print("stopped")


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
    OUT.print(table)
    if info.model == EMBEDDED and info.engine == "native":
        OUT.print(DEMONSTRATION)
    OUT.print(f"ready in {time.monotonic() - _STARTED_S:.1f} s ({stages})")
