"""Read by Python when it starts, where this folder is on its path: a whole process with a pretended GPU.

XAIKIT_PRETEND_GPU is 1 for every process, or "kernel" for those of notebooks alone: what starts them needs no torch.
"""

import atexit
import os
import sys
from pathlib import Path

_wanted = os.environ.get("XAIKIT_PRETEND_GPU")
if _wanted == "1" or (_wanted == "kernel" and "ipykernel_launcher" in sys.orig_argv):
    sys.path.insert(1, str(Path(__file__).parents[1]))
    from pretend_gpu import pretend_gpu

    _whole_process = pretend_gpu()
    _whole_process.__enter__()
    atexit.register(_whole_process.__exit__, None, None, None)
