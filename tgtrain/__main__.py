"""The command `tgtrain`, as `python -m tgtrain` too: it runs the package `cli` beside this one, whatever lies elsewhere."""

from tgtrain import _own

_own("cli")

import cli  # noqa: E402

cli.start()

from cli.train import main  # noqa: E402

if __name__ == "__main__":
    main()
