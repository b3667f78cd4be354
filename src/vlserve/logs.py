"""How log lines look: the one format of every process of a server."""

import logging
from typing import Final

_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"


def to_stderr() -> None:
    """Write what is logged, and what libraries warn of, to stderr with its time and level."""
    logging.basicConfig(format=_FORMAT, level=logging.WARNING)
    logging.captureWarnings(capture=True)
