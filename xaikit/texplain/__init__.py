"""Paper 2, TExplain (Taghanaki et al.): a classifier's features, translated for a frozen language model.

`translator` holds features and translator (section 2.1), `training` its training (section 2.2), `sampling` draws the
sentences and `words` counts their words (section 2.3). `word_maps` shows where a word comes from, `mitigation` trains
away from a shortcut (section 4.4), `text_overlap` and `rating` ask whether the words fit the pictures.
"""

from xaikit.texplain.mitigation import (
    Averages,
    averages,
    fine_tune,
    flagged,
    group_weights,
    masked,
    randomly_masked,
    retrain_last_layer,
    salient,
)
from xaikit.texplain.rating import Question, agreement, krippendorff_alpha, read_answers
from xaikit.texplain.sampling import sample
from xaikit.texplain.training import InMemory, read_translator, train, write_translator
from xaikit.texplain.translator import Features, Translator, log_probabilities, sentence_loss
from xaikit.texplain.word_maps import classifier_grad_cam, first_said, token_cam, word_attention, word_grad_cam
from xaikit.texplain.words import document_frequency, dominant, explained_by_prior, top_word, words_of

__all__ = [
    "Averages",
    "Features",
    "InMemory",
    "Question",
    "Translator",
    "agreement",
    "averages",
    "classifier_grad_cam",
    "document_frequency",
    "dominant",
    "explained_by_prior",
    "fine_tune",
    "first_said",
    "flagged",
    "group_weights",
    "krippendorff_alpha",
    "log_probabilities",
    "masked",
    "randomly_masked",
    "read_answers",
    "read_translator",
    "retrain_last_layer",
    "salient",
    "sample",
    "sentence_loss",
    "token_cam",
    "top_word",
    "train",
    "word_attention",
    "word_grad_cam",
    "words_of",
    "write_translator",
]
