"""The experiments: for each notebook what is trained on what, and asked what, with the methods on models and data.

A study reads top to bottom like its notebook. `*_pictures` choose or draw what is looked at, `*_figures` are pictures
that one notebook alone has; `extract` and `train_translator` are the long jobs of the papers' own sizes,
`train_models` makes the weights that ship.
"""
