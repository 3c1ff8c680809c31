"""Four papers on explaining vision models in words, rerun end to end: which of their claims survive?

The names that `__init__.pyi` lists are one import away, `from xaikit import decompose, textspan`; a name's library is
loaded when the name is first asked for.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
