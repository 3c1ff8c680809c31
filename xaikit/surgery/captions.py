"""What captions say about images, after surgery or without (Koller et al., section 3).

`similarities` reads the captions (Eq. 1), and two protocols score them: `cue_contrast` asks each image the question
that the paper asks, `published_values` and `dominant_captions` do what the public notebook does.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xaikit.arguments import public
from xaikit.models.batches import Batches, checked
from xaikit.models.hooks import evaluating


@public
@dataclass(frozen=True)
class Captions:
    """For each cue ("shape", "colour", …) one caption for each value that the cue can take.

    Raises ValueError where there is no cue, or one with a single caption: it takes a right and a wrong one (section 3).

    >>> from xaikit import Captions
    >>> captions = Captions({"shape": ("a 5", "an 8"), "colour": ("a red digit", "a green digit")})
    >>> captions.texts
    ['a 5', 'an 8', 'a red digit', 'a green digit']
    >>> captions.columns("colour")
    slice(2, 4, None)
    """

    cues: dict[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.cues:
            raise ValueError("There is no caption; give each cue one caption for each of its values.")
        for cue, captions in self.cues.items():
            if len(captions) < 2:
                raise ValueError(
                    f"The cue {cue!r} has {len(captions)} caption; it needs at least two, a right and a wrong one."
                )

    @property
    def texts(self) -> list[str]:
        """All captions, cue after cue: the columns of a similarity matrix."""
        return [caption for captions in self.cues.values() for caption in captions]

    def columns(self, cue: str) -> slice:
        """Where the captions of `cue` stand among all. Raises ValueError for a cue without captions."""
        if cue not in self.cues:
            raise ValueError(f"There is no caption for the cue {cue!r}; there are some for {', '.join(self.cues)}.")
        names = list(self.cues)
        start = sum(len(self.cues[name]) for name in names[: names.index(cue)])
        return slice(start, start + len(self.cues[cue]))


@public
def similarities(
    encoder: nn.Module, text_features: Float[Tensor, "captions features"], batches: Batches
) -> Float[Tensor, "images captions"]:
    """Cosine similarity of every image to every caption (Eq. 1), in [−1, 1], on the CPU.

    `encoder` maps images to features, with or without surgery around the call. Raises ValueError where a
    similarity is NaN.

    >>> import torch
    >>> from xaikit import similarities
    >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
    >>> texts = torch.randn(4, 5)  # of `Clip.encode_texts`, say
    >>> similarities(encoder, texts, torch.rand(6, 3, 8, 8).split(2)).shape
    torch.Size([6, 4])
    """
    text_features, parts = F.normalize(text_features, dim=-1), []
    with evaluating(encoder), torch.no_grad():
        for images in checked(batches):
            features = F.normalize(encoder(images), dim=-1)
            if features.shape[1:] != text_features.shape[1:]:
                width = text_features.shape[1]
                raise ValueError(
                    f"The text_features have {width} numbers, the images' {tuple(features.shape[1:])}; use one model."
                )
            parts.append((features @ text_features.to(images).T).cpu())
    result = torch.cat(parts)
    if not result.isfinite().all():
        raise ValueError("Some similarities are NaN; check the swapped statistics and the model's weights.")
    return result


def _check_columns(values: Tensor, captions: Captions) -> None:
    if values.shape[1] != len(captions.texts):
        raise ValueError(f"There are {values.shape[1]} columns for {len(captions.texts)} captions; give one each.")


# --- the corrected protocol ------------------------------------------------------------------------------------


@public
def cue_contrast(
    similarity: Float[Tensor, "images captions"],
    captions: Captions,
    cue: str,
    label: Int64[Tensor, " images"],
) -> Float[Tensor, " images"]:
    """Similarity to the right caption of `cue` minus that to the best wrong one, for each image.

    Positive where the image is read rightly; half the time by chance, with two captions on balanced data. Take it
    after the surgery, or take the difference of its values after and before: one image, one cue, one stage.

    Raises ValueError for a cue without captions and for labels that have none (grey has no right colour).
    Source: the question of Koller et al., section 3, asked of each image.

    >>> import torch
    >>> from xaikit import Captions, cue_contrast
    >>> captions = Captions({"colour": ("a red digit", "a green digit")})
    >>> similarity = torch.tensor([[0.30, 0.10], [0.25, 0.20]])
    >>> cue_contrast(similarity, captions, "colour", torch.tensor([0, 1]))  # of a red digit and of a green one
    tensor([ 0.2000, -0.0500])
    """
    _check_columns(similarity, captions)
    values = similarity[:, captions.columns(cue)]
    if label.shape != values.shape[:1]:
        raise ValueError(f"There are {len(label)} labels of {cue!r} for {len(values)} images; give one an image.")
    if label.min() < 0 or label.max() >= values.shape[1]:
        raise ValueError(f"Some images have no right caption for the cue {cue!r}; contrast only images that have one.")
    right = values.gather(1, label[:, None])[:, 0]
    wrong = values.scatter(1, label[:, None], -torch.inf).amax(dim=1)
    return right - wrong


# --- the protocol as published -----------------------------------------------------------------------------------


@public
def dominant_captions(
    values: Float[Tensor, "images captions"], captions: Captions, labels: dict[str, Int64[Tensor, " images"]]
) -> dict[str, float]:
    """The share of images whose highest value is a right or a wrong caption of each cue (section 3).

    A cue whose labels are all negative has no right caption (grey digits): its shares are summed up as "any". Keys
    are "correct shape", "wrong shape", "any colour" and so on; the shares add up to one. Raises ValueError where
    captions and labels do not name the same cues, and where some labels of a cue have a caption and others none.
    """
    if set(labels) != set(captions.cues):
        raise ValueError(f"There are labels for {sorted(labels)} but captions for {sorted(captions.cues)}; give both.")
    _check_columns(values, captions)
    top = values.argmax(dim=1)
    shares = {}
    for cue, label in labels.items():
        columns = captions.columns(cue)
        named = (top >= columns.start) & (top < columns.stop)
        if (label < 0).all():
            shares[f"any {cue}"] = named.double().mean().item()
        elif label.min() < 0 or label.max() >= len(captions.cues[cue]):
            raise ValueError(f"Some images have no right caption for the cue {cue!r}; score such images on their own.")
        else:
            correct = top == label + columns.start
            shares[f"correct {cue}"] = correct.double().mean().item()
            shares[f"wrong {cue}"] = (named & ~correct).double().mean().item()
    return shares


@public
def cue_share(shares: dict[str, float], cue: str) -> float:
    """The part of `dominant_captions` that names `cue`, rightly, wrongly or any: the bars of Figure 4."""
    found = [share for key, share in shares.items() if key.partition(" ")[2] == cue]
    if not found:
        raise ValueError(f"There is no share of the cue {cue!r}; there are some of {', '.join(shares)}.")
    return sum(found)


@public
def published_values(
    first: Float[Tensor, "settings batch captions"], swapped: Float[Tensor, "images captions"]
) -> dict[str, Float[Tensor, "images captions"]]:
    """What the public notebook scores: similarities "zero" layers swapped, all "swapped", and their "influence".

    `first[s]` are the true similarities of the first batch with the first s of the stages swapped, `swapped` those of
    all images with all stages swapped; no more of the truth reaches the notebook's columns. They have two defects:
    edits of the batch before are still in place (`stale_edits`), and the columns taken for "before" and "after" belong
    to other images and stages (`published_columns`). Row n is scored with the labels of image n all the same.

    A last batch may be smaller than the first; the public notebook never has one, as its sets fill theirs. It then
    finds as many images of the batch before it still in place.

    Raises ValueError where there are fewer images than in the first batch.
    """
    settings, batch, _ = first.shape
    if len(swapped) < batch:
        raise ValueError(f"{len(swapped)} images are fewer than the {batch} of the first batch; give both of the same.")
    whole = len(swapped) // batch * batch
    seen, rest = list(stale_edits(first, swapped[:whole])), swapped[whole:]
    if len(rest):
        before = swapped[whole - batch : whole][: len(rest)]
        seen.append(torch.stack([*[before] * (settings - 1), rest]))
    before, after = (torch.cat(parts) for parts in zip(*map(published_columns, seen), strict=True))
    return {"zero": before, "swapped": after, "influence": after - before}


@public
def stale_edits(
    first: Float[Tensor, "settings batch captions"], swapped: Float[Tensor, "images captions"]
) -> Float[Tensor, "batches settings batch captions"]:
    """What is seen when the edits of one batch stay in place during the next, as in the public notebook.

    CLIP is restored once, before the first batch. Later, as long as the last stage has not been edited anew, its
    output is still that of the batch before, and nothing upstream of it reaches the embedding: every setting but
    the last shows the fully swapped similarities of the previous batch. Raises ValueError where the images do not
    fill whole batches.
    """
    settings, batch, _ = first.shape
    if len(swapped) % batch:
        raise ValueError(f"{len(swapped)} images do not fill batches of {batch}; leave out the last few.")
    now = swapped.unflatten(0, (-1, batch))[1:]
    previous = swapped.unflatten(0, (-1, batch))[:-1]
    later = torch.cat([previous[:, None].expand(-1, settings - 1, -1, -1), now[:, None]], dim=1)
    return torch.cat([first[None], later])


@public
def published_columns(
    similarity: Float[Tensor, "settings images captions"],
) -> tuple[Float[Tensor, "images captions"], Float[Tensor, "images captions"]]:
    """The columns that the public notebook takes for "before" and "after" the swap of one batch.

    It stacks similarities setting by setting, then takes every S-th column from the first and from the last of the
    S settings on, as if they were stacked image by image. Of 25 images and 5 settings only image 0 "before" and
    image 24 "after" are what they are taken for.
    """
    settings = len(similarity)
    columns = similarity.flatten(0, 1)
    return columns[::settings], columns[settings - 1 :: settings]
