"""The command `tgprep`, as `python -m tgprep` too: it runs the package `cli` beside this one, whatever lies elsewhere."""

from tgprep import _own

_own("cli")

import cli  # noqa: E402

cli.start()

from cli.prep import main  # noqa: E402

if __name__ == "__main__":
    main()
