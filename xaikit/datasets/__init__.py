"""One module a real data set; each reads the layouts in which it is handed round, and knows no profile."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
