"""The commands `tgprep` and `tgtrain`: they parse, call and print."""

import os
import sys

if sys.argv[0] == "-m" or sys.argv[0].rpartition("/")[2] in ("tgprep", "tgtrain"):
    # A random.py of the user, in the working folder or beside the program, must not be taken for the library's: Python looks there
    # last, and in the processes that the program starts not at all.
    if not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))
    os.environ.setdefault("PYTHONSAFEPATH", "tgprep")  # any text switches it on; commands of the user do not get it
