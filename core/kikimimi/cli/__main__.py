"""``python -m kikimimi.cli``."""

from kikimimi.cli import main

main()
