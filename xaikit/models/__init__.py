"""What is explained, and what explains: models, built, trained and loaded through their libraries' own calls.

`clip`, `captioner`, `generator`, `classifiers` and `vit_classifier` load or train them, `preprocessing` is the one way
in for pixels, `hooks` the one way to look inside, `scores` what an explanation explains; `cards` says what made the
weights that ship.
"""
