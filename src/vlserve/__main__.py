"""`python -m vlserve`."""

from vlserve.cli import main

main()
