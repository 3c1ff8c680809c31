"""Read by Python when it starts, where this folder is on its path: a whole process with a pretended GPU."""

import atexit
import os
import sys
from pathlib import Path

if os.environ.get("XAIKIT_PRETEND_GPU") == "1":
    sys.path.insert(1, str(Path(__file__).parents[1]))
    from pretend_gpu import pretend_gpu

    _whole_process = pretend_gpu()
    _whole_process.__enter__()
    atexit.register(_whole_process.__exit__, None, None, None)
