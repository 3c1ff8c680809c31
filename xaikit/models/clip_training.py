"""What the training of the mini CLIPs shares: a tokenizer of whole words, and CLIP's loss."""

from collections.abc import Iterable

from jaxtyping import Bool, Float
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<unk>", "<start>")
END = "<end>"  # the last and so the highest token: open_clip pools the text tower there


def word_tokenizer(texts: Iterable[str], context: int) -> PreTrainedTokenizerFast:
    """Lower-case words and punctuation; the vocabulary is that of `texts`, any other word is <unk>."""
    split = pre_tokenizers.BertPreTokenizer()
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *words, END))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = split
    ends = [(token, vocabulary[token]) for token in ("<start>", END)]
    backend.post_processor = processors.TemplateProcessing(single=f"<start> $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token=END,
        model_max_length=context,
    )


def contrastive_loss(logits: Float[Tensor, "images texts"], true: Bool[Tensor, "images texts"]) -> Float[Tensor, ""]:
    """CLIP's symmetric cross-entropy where several captions are true of one image, as "a red digit" is of all red.

    The target of a row or column is shared equally by its true pairs.
    """
    target = true.to(logits)
    to_texts = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    to_images = -(target / target.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (to_texts + to_images) / 2
