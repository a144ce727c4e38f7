"""The commands `tgprep` and `tgtrain`: they parse, call and print."""

import os
import sys


def start() -> None:
    """Begin one of the programs: files of the user must not be taken for modules of the library or of ours.

    Python looks into the working folder, or that of the script, last (a random.py of the user), and in the processes that the
    program starts not at all. Folders of PYTHONPATH with another `cli` or `manifests` come after the folder of ours, here and
    in processes that get the search path of this one.
    """
    if not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))
    os.environ.setdefault("PYTHONSAFEPATH", "tgprep")  # any text switches it on; commands of the user do not get it
    # Read before pyarrow is imported. Its own way to get memory moves long columns of text while they grow, as those of
    # 650,000 videos do; that of the system does not.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    names = [name + end for name in ("cli", "manifests") for end in ("", ".py")]
    foreign = [
        place
        for place in sys.path
        if os.path.realpath(place) != root and any(os.path.exists(os.path.join(place, name)) for name in names)
    ]
    if foreign:
        own = [place for place in sys.path if place not in foreign]
        sys.path[:] = [*own, *(() if root in own else (root,)), *foreign]
