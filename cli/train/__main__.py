"""`python -m cli.train` is `tgtrain`."""

from cli.train import main

main()
