"""Four papers on explaining vision models in words, rerun end to end: which of their claims survive?"""

__version__ = "0.1.0"
