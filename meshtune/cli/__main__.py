"""`python -m meshtune.cli` is `meshtune`."""

from meshtune.cli.main import main

main()
