"""`python -m cli.prep` is `tgprep`."""

from cli.prep import main

main()
