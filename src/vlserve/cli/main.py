"""The command line, a file a command.

What is heavy is imported by the command that needs it, so that help and settings come at once.
"""

import signal
import sys

from vlserve.bench.command import bench
from vlserve.cli.ask import ask
from vlserve.cli.base import ERR, cli
from vlserve.cli.describe import describe_pictures, send_batch
from vlserve.cli.models import show_models
from vlserve.cli.serve import serve
from vlserve.cli.settings import show_settings
from vlserve.describe.errors import DescribeError
from vlserve.errors import ServeError
from vlserve.settings import WrongSettings

# In the order in which help lists them.
for name, command in (
    ("serve", serve),
    ("ask", ask),
    ("describe", describe_pictures),
    ("batch", send_batch),
    ("bench", bench),
    ("models", show_models),
    ("settings", show_settings),
):
    cli.command(name)(command)


def main() -> None:
    """Run a command. What the user can mend is said on stderr, with exit status 2."""
    from vlserve.models.errors import ModelError  # noqa: PLC0415

    # From here on there are things to close before the process ends.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        cli()
    except (WrongSettings, DescribeError, ServeError, ModelError, OSError) as error:
        ERR.out(f"error: {error}", style="red")
        sys.exit(2)
