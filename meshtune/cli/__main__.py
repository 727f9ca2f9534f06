"""`python -m meshtune.cli` is `meshtune`."""

from meshtune.cli import main

main()
