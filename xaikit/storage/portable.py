"""Importing this gives the process the portable arithmetic; it must come before numpy and torch (the tests do so).

XAIKIT_ARITHMETIC in the environment names another one of `xaikit.storage.arithmetic`.
"""

import os

from xaikit.storage.arithmetic import PORTABLE, VARIABLE, environment

given = environment(os.environ.get(VARIABLE, PORTABLE))
os.environ.clear()  # an update alone would leave what the user has set of the same libraries
os.environ.update(given)
