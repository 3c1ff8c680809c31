"""What is explained, and what explains: models, built, trained and loaded through their libraries' own calls.

`clip`, `captioner`, `generator`, `classifiers` and `vit_classifier` load or train them, `preprocessing` is the one way
in for pixels, `hooks` the one way to look inside, `remembering` saves running again for images just seen, `scores` is
what an explanation explains; `cards` says what made the weights that ship.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
