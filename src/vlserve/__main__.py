"""`vlserve`, and `python -m vlserve`."""

import signal


def main() -> None:
    """Run the command line. Ctrl-C while it is imported ends the process without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vlserve.cli.main import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
