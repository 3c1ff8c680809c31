"""Grad-CAM on tokens agrees with loops, finite differences and the grad-cam package, and finds what it should."""

import inspect

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from pytorch_grad_cam import GradCAM, XGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel, BertTokenizerFast

from xaikit.texplain.translator import Translator
from xaikit.texplain.word_maps import classifier_grad_cam, first_said, token_cam, word_attention, word_grad_cam
from xaikit.texplain.words import words_of

GRID, WIDTH, VOCABULARY = (2, 3), 5, 12
PAD, START, END = 0, 1, 2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def bert(vocabulary: int = VOCABULARY, layers: int = 2) -> BertLMHeadModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, is_decoder=True, add_cross_attention=True, initializer_range=0.5,
        attn_implementation="eager",
    )  # fmt: skip
    return BertLMHeadModel(config)


@pytest.fixture
def decoder() -> BertLMHeadModel:
    return bert().double().eval()


@pytest.fixture
def translator() -> Translator:
    torch.manual_seed(1)
    made = Translator(GRID[0] * GRID[1] + 1, WIDTH, 16).double()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return made.eval()


FEATURES = random(3, 7, WIDTH, seed=2)
WORDS = [{5}, {6, 7}, {8}]
SENTENCES = torch.tensor(
    [
        [[1, 5, 3, 5, 4, 2, 0], [1, 3, 3, 4, 2, 0, 0], [1, 9, 5, 2, 0, 0, 0], [1, 9, 9, 5, 3, 3, 2]],
        [[1, 3, 7, 6, 2, 0, 0], [1, 6, 3, 2, 0, 0, 0], [1, 5, 5, 5, 2, 0, 0], [1, 8, 8, 8, 2, 0, 0]],
        [[1, 8, 2, 0, 0, 0, 0], [1, 8, 4, 2, 0, 0, 0], [1, 3, 4, 8, 2, 0, 0], [1, 4, 3, 3, 3, 8, 2]],
    ]
)
# By hand: the sentences of each image that have its word, and the position where they first do.
FIRST = [{0: 1, 2: 2, 3: 3}, {0: 2, 1: 1}, {0: 1, 1: 1, 2: 3, 3: 5}]


def says(words=WORDS, sentences: Tensor = SENTENCES, prompt: int = 1) -> Tensor:
    """The tokens with which each sentence first says one of the tokens of its image's word."""
    found = torch.zeros(sentences.shape, dtype=torch.bool)
    for image, wanted in enumerate(words):
        for row, sentence in enumerate(sentences[image].tolist()):
            first = next((at for at, token in enumerate(sentence) if at >= prompt and token in wanted), None)
            if first is not None:
                found[image, row, first] = True
    return found


def slow_score(decoder: nn.Module, translator: nn.Module, features: Tensor, image: int, most: int = 16) -> Tensor:
    """The mean log-probability of the word of one image: sentence by sentence, nothing behind the word."""
    conditioning = translator(features[None])
    total, used = 0.0, list(FIRST[image].items())[:most]
    for sentence, position in used:
        tokens = SENTENCES[image, sentence]
        logits = decoder(input_ids=tokens[None, :position], encoder_hidden_states=conditioning, use_cache=False).logits
        total = total + logits[0, -1].log_softmax(0)[tokens[position]]
    return total / len(used)


def slow_map(features: Tensor, weights: list[Tensor]) -> Tensor:
    expected = torch.zeros(GRID, dtype=torch.float64)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            patch = features[1 + row * GRID[1] + column]
            expected[row, column] = max(0.0, sum(float(w * a) for w, a in zip(weights, patch, strict=True)))
    return expected


# --- tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["grad", "xgrad"])
@pytest.mark.parametrize("tokens", [6, 7])
def test_token_cam_is_the_weighted_sum_over_channels_of_the_patches(weights, tokens) -> None:
    features, gradient = FEATURES[:, :tokens], random(3, tokens, WIDTH, seed=3)
    found = token_cam(features, gradient, GRID, weights=weights)
    for image in range(3):
        a, g = features[image, tokens - 6 :], gradient[image, tokens - 6 :]
        total = torch.zeros(6, dtype=torch.float64)
        for c in range(WIDTH):
            if weights == "grad":
                w = sum(g[p, c] for p in range(6)) / 6
            else:
                w = sum(g[p, c] * a[p, c] for p in range(6)) / (sum(a[p, c] for p in range(6)) + 1e-7)
            total += w * a[:, c]
        expected = torch.tensor([[max(0.0, float(total[row * 3 + column])) for column in range(3)] for row in range(2)])
        torch.testing.assert_close(found[image], expected.double())
    assert (found > 0).any() and (found == 0).any()


def test_token_cam_refuses_other_grids_weights_and_nan() -> None:
    with pytest.raises(ValueError, match="7 tokens for 4 patches"):
        token_cam(FEATURES, FEATURES, (2, 2))
    with pytest.raises(ValueError, match="weights of token_cam"):
        token_cam(FEATURES, FEATURES, GRID, weights="mean")
    with pytest.raises(ValueError, match="NaN or infinity"):
        token_cam(FEATURES, torch.full_like(FEATURES, torch.nan), GRID)


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 16])
def test_word_grad_cam_equals_sentence_by_sentence_autograd(decoder, translator, most) -> None:
    found = word_grad_cam(decoder, translator, FEATURES, SENTENCES, says(), grid=GRID, pad=PAD, most=most)
    assert found.shape == (3, *GRID) and (found > 0).any((1, 2)).all()
    for image in range(3):
        leaf = FEATURES[image].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(slow_score(decoder, translator, leaf, image, most), leaf)
        weights = [sum(gradient[1:, c]) / 6 for c in range(WIDTH)]
        torch.testing.assert_close(found[image], slow_map(FEATURES[image], weights))


def test_word_grad_cam_equals_finite_differences(decoder, translator) -> None:
    found = word_grad_cam(decoder, translator, FEATURES, SENTENCES, says(), grid=GRID, pad=PAD)
    step = 1e-5
    for image in range(3):
        weights = []
        for channel in range(WIDTH):  # the mean gradient over patches is what moving all of them together does
            move = torch.zeros(7, WIDTH, dtype=torch.float64)
            move[1:, channel] = step
            with torch.no_grad():
                above, below = (slow_score(decoder, translator, FEATURES[image] + s * move, image) for s in (1, -1))
            weights.append((above - below) / (2 * step) / 6)
        torch.testing.assert_close(found[image], slow_map(FEATURES[image], weights), rtol=1e-6, atol=1e-8)


def test_an_image_has_the_same_map_alone_and_among_others(decoder, translator) -> None:
    together = word_grad_cam(decoder, translator, FEATURES, SENTENCES, says(), grid=GRID, pad=PAD)
    for i in range(3):
        one = slice(i, i + 1)
        alone = word_grad_cam(decoder, translator, FEATURES[one], SENTENCES[one], says()[one], grid=GRID, pad=PAD)
        torch.testing.assert_close(alone, together[one])


def test_padding_prompts_and_sentences_without_the_word_change_nothing(decoder, translator) -> None:
    expected = word_grad_cam(decoder, translator, FEATURES, SENTENCES, says(), grid=GRID, pad=PAD)
    padded = F.pad(SENTENCES, (0, 3))
    with_start = F.pad(says(), (0, 3))
    with_start[:, :, 0] = True  # it is given, not said
    found = word_grad_cam(decoder, translator, FEATURES, padded, with_start, grid=GRID, pad=PAD)
    torch.testing.assert_close(found, expected)
    only = word_grad_cam(decoder, translator, FEATURES[1:2], SENTENCES[1:2, :2], says()[1:2, :2], grid=GRID, pad=PAD)
    torch.testing.assert_close(only, expected[1:2])
    # With two tokens given, the words that stand second are no longer said, and the next use counts.
    later = says(prompt=2)[:1, :1]
    shorter = word_grad_cam(decoder, translator, FEATURES[:1], SENTENCES[:1, :1], later, grid=GRID, pad=PAD, prompt=2)
    leaf = FEATURES[0].clone().requires_grad_()
    sentence, conditioning = SENTENCES[0, 0], translator(leaf[None])
    logits = decoder(input_ids=sentence[None, :3], encoder_hidden_states=conditioning, use_cache=False).logits
    (gradient,) = torch.autograd.grad(logits[0, -1].log_softmax(0)[5], leaf)
    torch.testing.assert_close(shorter[0], slow_map(FEATURES[0], list(gradient[1:].mean(0))))


@pytest.mark.parametrize("layer", [0, 1])
def test_word_attention_equals_sentence_by_sentence_autograd(decoder, translator, layer) -> None:
    found = word_attention(decoder, translator, FEATURES, SENTENCES, says(), grid=GRID, pad=PAD, layer=layer)
    assert found.shape == (3, *GRID) and (found > 0).any((1, 2)).all()
    for image in range(3):
        conditioning, total = translator(FEATURES[image : image + 1]).detach().requires_grad_(), torch.zeros(6).double()
        for sentence, position in FIRST[image].items():
            tokens = SENTENCES[image, sentence]
            output = decoder(
                input_ids=tokens[None, :position], encoder_hidden_states=conditioning, use_cache=False,
                output_attentions=True,
            )  # fmt: skip
            looked = output.cross_attentions[layer]
            (gradient,) = torch.autograd.grad(output.logits[0, -1].log_softmax(0)[tokens[position]], looked)
            for head in range(2):
                for patch in range(6):  # the class token stands in front
                    g, a = (float(each[0, head, -1, 1 + patch].detach()) for each in (gradient, looked))
                    total[patch] += max(0.0, g) * a / 2 / len(FIRST[image])
        torch.testing.assert_close(found[image], total.reshape(GRID))
    middle = word_attention(decoder, translator, FEATURES, SENTENCES, says(), grid=GRID, pad=PAD)
    if layer == 0:  # of two layers the lower one is the middle
        torch.testing.assert_close(middle, found)


def test_word_attention_of_a_word_in_pieces_is_the_sum_over_them(decoder) -> None:
    sentence = torch.tensor([[[1, 3, 7, 8, 4, 2]]])
    marks = torch.tensor([[[False, False, True, True, False, False]]])
    features = random(1, 7, 16, seed=5)
    found = word_attention(decoder, nn.Identity(), features, sentence, marks, grid=GRID, pad=PAD, layer=1)
    conditioning = features.clone().requires_grad_()
    output = decoder(input_ids=sentence[0], encoder_hidden_states=conditioning, use_cache=False, output_attentions=True)
    logs = output.logits[0].log_softmax(1)
    (gradient,) = torch.autograd.grad(logs[1, 7] + logs[2, 8], output.cross_attentions[1])
    looked = (output.cross_attentions[1] * gradient.relu()).mean(1)[0, 1:3, 1:].sum(0)
    torch.testing.assert_close(found[0], looked.detach().reshape(GRID))


def test_bad_input_of_word_attention(decoder, translator) -> None:
    def attempt(decoder=decoder, translator=translator, grid=GRID, **others):
        return word_attention(decoder, translator, FEATURES, SENTENCES, says(), grid=grid, pad=PAD, **others)

    with pytest.raises(ValueError, match="no layer 2 with cross-attention: the decoder has 2"):
        attempt(layer=2)
    with pytest.raises(ValueError, match="mixes all tokens"):
        attempt(translator=Translator(7, WIDTH, 16, variant="bottleneck", hidden=4).double())
    with pytest.raises(ValueError, match="7 tokens for 4 patches"):
        attempt(grid=(2, 2))
    decoder.config._attn_implementation = "sdpa"
    with pytest.raises(ValueError, match="gives no attentions"):
        attempt()


def test_a_word_of_several_pieces_counts_as_one(decoder, translator) -> None:
    sentence = torch.tensor([[[1, 3, 7, 8, 4, 2]]])
    marks = torch.tensor([[[False, False, True, True, False, False]]])
    found = word_grad_cam(decoder, translator, FEATURES[:1], sentence, marks, grid=GRID, pad=PAD)
    leaf = FEATURES[:1].clone().requires_grad_()
    log = 0.0
    for position in (2, 3):  # log p(7 | 1 3) + log p(8 | 1 3 7)
        before = sentence[0, :, :position]
        logits = decoder(input_ids=before, encoder_hidden_states=translator(leaf), use_cache=False).logits
        log = log + logits[0, -1].log_softmax(0)[sentence[0, 0, position]]
    (gradient,) = torch.autograd.grad(log, leaf)
    torch.testing.assert_close(found[0], slow_map(FEATURES[0], list(gradient[0, 1:].mean(0))))


def test_the_tokens_of_a_word_are_found_whole(tmp_path) -> None:
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "sea",
        "##gull",
        "##s",
        "bird",
        "##bird",
        "humming",
        "the",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    texts = ["a seagulls a seagull", "the sea", "a hummingbird bird", "birds", "seabird"]
    rows = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").input_ids

    def said(*words: str) -> list[list[str]]:
        marks = first_said(rows[None], [words], tokenizer, words_of)[0]
        return [tokenizer.convert_ids_to_tokens(row[mark].tolist()) for row, mark in zip(rows, marks, strict=True)]

    assert said("seagull") == [["sea", "##gull", "##s"], [], [], [], []]
    assert said("sea") == [[], ["sea"], [], [], []]  # no part of a longer word
    assert said("bird") == [[], [], ["bird"], ["bird", "##s"], []]
    assert said("hummingbird", "sea") == [[], ["sea"], ["humming", "##bird"], [], []]
    assert said("no-such-word") == [[]] * 5
    with pytest.raises(ValueError, match="words of 2"):
        first_said(rows[None], [["bird"], ["sea"]], tokenizer, words_of)


def test_models_and_features_are_left_as_they_were(decoder, translator) -> None:
    translator.train()
    before = {name: value.clone() for name, value in translator.state_dict().items()}
    with torch.inference_mode():
        features = FEATURES.clone()
    with torch.no_grad():
        found = word_grad_cam(decoder, translator, features, SENTENCES, says(), grid=GRID, pad=PAD)
    assert not found.requires_grad and translator.training and not decoder.training
    assert all(torch.equal(value, before[name]) for name, value in translator.state_dict().items())
    assert all(p.grad is None and p.requires_grad for model in (decoder, translator) for p in model.parameters())


def test_bad_input_of_word_grad_cam(decoder, translator) -> None:
    def attempt(features=FEATURES, sentences=SENTENCES, words=WORDS, **others):
        marks = says(words, sentences)
        return word_grad_cam(decoder, translator, features, sentences, marks, grid=GRID, pad=PAD, **others)

    with pytest.raises(ValueError, match="No sentence of image 1 has its word"):
        attempt(words=[{5}, {11}, {8}])
    with pytest.raises(ValueError, match="No sentence of image 2 has its word"):
        attempt(words=[{5}, {6}, set()])
    with pytest.raises(ValueError, match="No sentence of image 0 has its word"):
        attempt(words=[{PAD, START}, {6}, {8}])
    with pytest.raises(ValueError, match="marks of a word"):
        inspect.unwrap(word_grad_cam)(decoder, translator, FEATURES, SENTENCES, says()[:, :, 1:], grid=GRID, pad=PAD)
    with pytest.raises(ValueError, match="features of word_grad_cam"):
        attempt(FEATURES[:0], SENTENCES[:0], [])
    with pytest.raises(ValueError, match="most of word_grad_cam"):
        attempt(most=0)
    with pytest.raises(ValueError, match="prompt of word_grad_cam"):
        attempt(prompt=0)


def test_word_grad_cam_finds_the_patch_that_the_word_comes_from() -> None:
    # One patch of every second image has a thing, which is named in seven sentences of ten: no word is ever certain.
    draw = torch.Generator().manual_seed(0)
    thing, named, other = 3 * F.normalize(torch.randn(8, generator=draw), dim=0), 4, 3

    def images(n: int) -> tuple[Tensor, Tensor, Tensor]:
        there, places = torch.randint(2, (n,), generator=draw), torch.randint(9, (n,), generator=draw)
        features = 0.5 * torch.randn(n, 9, 8, generator=draw)
        features[torch.arange(n), places] += there[:, None] * thing
        return features, there, places

    decoder = bert(5, layers=1)
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(0.2)
    torch.manual_seed(0)
    translator = Translator(9, 8, 16)
    optimizer = torch.optim.Adam([*decoder.parameters(), *translator.parameters()], 5e-3)
    start = torch.full((64, 1), START)
    for _ in range(40):
        features, there, _ = images(64)
        told = torch.where(torch.rand(64, generator=draw) < 0.3, 1 - there, there)
        logits = decoder(input_ids=start, encoder_hidden_states=translator(features), use_cache=False).logits[:, 0]
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.where(told == 1, named, other)).backward()
        optimizer.step()
    features, there, places = images(100)
    sentences = torch.tensor([START, named, END]).expand(100, 1, 3)
    maps = word_grad_cam(decoder, translator, features, sentences, sentences == named, grid=(3, 3), pad=PAD)
    found = maps.flatten(1).argmax(1) == places
    assert found[there == 1].double().mean() > 0.9  # chance is 0.11


# --- classes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": (24, 32), "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    model = timm.create_model("vit_tiny_patch16_224", **sizes).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


IMAGES = random(4, 3, 24, 32, seed=4).float()
TARGET = torch.tensor([0, 3, 1, 4])


def written_out(vit: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """The last block's first norm, and the logits, of one image."""
    x = vit.blocks[0](vit.norm_pre(vit._pos_embed(vit.patch_embed(image[None]))))
    last = vit.blocks[1]
    normed = last.norm1(x)
    x = x + last.attn(normed)
    x = x + last.mlp(last.norm2(x))
    return normed, vit.head(vit.norm(x)[:, 0])


@pytest.mark.parametrize("weights", ["grad", "xgrad"])
def test_classifier_grad_cam_equals_the_definition(vit, weights) -> None:
    vit = vit.double()
    try:
        found = classifier_grad_cam(vit, "blocks.-1.norm1", IMAGES.double(), TARGET, grid=(3, 4), weights=weights)
        for image, target, mine in zip(IMAGES.double(), TARGET, found, strict=True):
            a, logits = written_out(vit, image)
            (g,) = torch.autograd.grad(logits[0, target], a)
            a, g = a[0, 1:].detach(), g[0, 1:]
            w = g.mean(0) if weights == "grad" else (g * a).sum(0) / (a.sum(0) + 1e-7)
            torch.testing.assert_close(mine, (a @ w).clamp(min=0).reshape(3, 4))
        assert (found > 0).any((1, 2)).all()
    finally:
        vit.float()


@pytest.mark.parametrize(("weights", "package"), [("grad", GradCAM), ("xgrad", XGradCAM)])
@pytest.mark.parametrize("layer", ["blocks.0", "blocks.1.norm1"])
def test_classifier_grad_cam_equals_the_grad_cam_package(vit, layer, weights, package) -> None:
    def on_grid(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].reshape(len(tokens), 3, 4, -1).permute(0, 3, 1, 2)

    module = vit.get_submodule(layer)
    with package(vit, [module], reshape_transform=on_grid) as oracle:
        oracle(IMAGES, [ClassifierOutputTarget(int(label)) for label in TARGET])
        recorded = oracle.activations_and_grads
        activations, gradients = recorded.activations[0].numpy(), recorded.gradients[0].numpy()
        raw = np.maximum(oracle.get_cam_image(IMAGES, module, [], activations, gradients), 0)
    found = classifier_grad_cam(vit, layer, IMAGES, TARGET, grid=(3, 4), weights=weights)
    assert raw.max() > 1e-4
    np.testing.assert_allclose(found.numpy(), raw, rtol=1e-4, atol=1e-5 * raw.max())


def test_the_predicted_class_is_explained_by_default_and_the_model_is_left_as_it_was(vit) -> None:
    vit.train().zero_grad()  # the package leaves gradients
    found = classifier_grad_cam(vit, "blocks.-1.norm1", IMAGES, grid=(3, 4))
    assert vit.training and all(parameter.grad is None for parameter in vit.parameters())
    vit.eval()
    chosen = vit(IMAGES).argmax(1)
    for target, same in ((chosen, True), ((chosen + 1) % 5, False)):
        named = classifier_grad_cam(vit, "blocks.1.norm1", IMAGES, target, grid=(3, 4))
        assert torch.allclose(named, found) == same
    vit.requires_grad_(False)
    torch.testing.assert_close(classifier_grad_cam(vit, "blocks.1.norm1", IMAGES, grid=(3, 4)), found)
    vit.requires_grad_(True)


def test_bad_input_of_classifier_grad_cam(vit) -> None:
    for layer in ("blocks.2", "blocks.-3.norm1", "block", "blocks.-0", ""):
        with pytest.raises(ValueError, match="The model has no layer"):
            classifier_grad_cam(vit, layer, IMAGES, grid=(3, 4))
    for layer in ("blocks.-1", "norm"):  # the head reads the class token alone
        with pytest.raises(ValueError, match=r"No patch of .* reaches the logits"):
            classifier_grad_cam(vit, layer, IMAGES, grid=(3, 4))
    beside = nn.Module()
    beside.vit, beside.unused, beside.forward = vit, nn.Linear(1, 1), vit.forward
    with pytest.raises(ValueError, match="'unused' is used 0 times"):
        classifier_grad_cam(beside, "unused", IMAGES, grid=(3, 4))
    with pytest.raises(ValueError, match=r"is not \[batch, tokens, width\]"):
        classifier_grad_cam(vit, "head", IMAGES, grid=(3, 4))
    for bad in (TARGET + 1, TARGET - 1, TARGET[:2]):
        with pytest.raises(ValueError, match="The targets are not one of the classes 0 to 4"):
            classifier_grad_cam(vit, "blocks.1.norm1", IMAGES, bad, grid=(3, 4))
    with pytest.raises(ValueError, match="images of classifier_grad_cam"):
        classifier_grad_cam(vit, "blocks.1.norm1", IMAGES[:0], grid=(3, 4))
    with pytest.raises(ValueError, match="images of classifier_grad_cam"):
        classifier_grad_cam(vit, "blocks.1.norm1", IMAGES * torch.nan, grid=(3, 4))
