"""`python -m vlserve`."""

from vlserve.cli.main import main

main()
