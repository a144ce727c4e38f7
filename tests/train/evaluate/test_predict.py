"""Reading views of videos outside of a data set."""

from __future__ import annotations

import subprocess
import sys


def test_decoding_processes_import_no_torch() -> None:
    """They start once a core: torch would cost each of them seconds and hundreds of megabytes."""
    code = (
        "import sys, cli.train.decode_children, tgtrain.data.clip, tgtrain.data.reader, tgtrain.evaluate.predict, "
        "tgprep.decode.open, tgprep.encode.flow; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
