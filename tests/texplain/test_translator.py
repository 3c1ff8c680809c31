"""Features against hand-made forwards, the translator against a loop, the loss against transformers' own and a loop."""

import math
import re

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18
from transformers import BertConfig, BertLMHeadModel, BlipTextConfig, BlipTextLMHeadModel

from xaikit.texplain.translator import BOTTLENECK, Features, Translator, log_probabilities, sentence_loss

VOCABULARY, PAD, START, END, WIDTH = 30, 0, 1, 2, 12  # WIDTH of the conditioning
# Prompt of two tokens, words, end, padding.
SENTENCES = torch.tensor([[1, 7, 11, 12, 13, 2, 0, 0], [1, 7, 29, 2, 0, 0, 0, 0], [1, 7, 4, 5, 6, 8, 9, 2]])
PROMPT = 2


def blip(**changes: object) -> BlipTextLMHeadModel:
    torch.manual_seed(0)
    config = BlipTextConfig(
        vocab_size=VOCABULARY, hidden_size=16, encoder_hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=10, bos_token_id=START, eos_token_id=END, sep_token_id=END,
        pad_token_id=PAD, initializer_range=0.2, **changes,
    )  # fmt: skip
    return BlipTextLMHeadModel(config).double()


def bert(**changes: object) -> BertLMHeadModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=10, pad_token_id=PAD, initializer_range=0.2,
        **{"is_decoder": True, "add_cross_attention": True, **changes},
    )  # fmt: skip
    return BertLMHeadModel(config).double()


@pytest.fixture(params=[blip, bert], ids=["blip", "bert"])
def decoder(request: pytest.FixtureRequest) -> nn.Module:
    return request.param()


@pytest.fixture
def conditioning() -> Tensor:
    return torch.randn(3, 5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


# --- Features ---------------------------------------------------------------------------------------------------------


def test_features_of_a_timm_vit_are_the_tokens_that_its_head_reads(images: Tensor) -> None:
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2, num_classes=5
    )
    vit.eval()
    with torch.no_grad():
        found = Features(vit, "norm")(images)
        torch.testing.assert_close(found, vit.forward_features(images))
        assert found.shape == (2, 1 + 16, 24)
        pooled = Features(vit, "norm", pooled=True)(images)
        torch.testing.assert_close(vit.head(pooled[:, 0]), vit(images))


def test_features_of_a_resnet_are_its_cells_row_by_row(images: Tensor) -> None:
    torch.manual_seed(0)
    net = resnet18(num_classes=4).eval()
    large = F.interpolate(images, (64, 96))
    with torch.no_grad():
        maps = net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(large))))))))
        cells = torch.stack([maps[:, :, row, column] for row in range(2) for column in range(3)], dim=1)
        torch.testing.assert_close(Features(net, "layer4")(large), cells)
        torch.testing.assert_close(Features(net, "layer4", pooled=True)(large), cells.mean(1, keepdim=True))
        for layer in ("avgpool", "fc"):
            expected = net(large) if layer == "fc" else cells.mean(1)
            torch.testing.assert_close(Features(net, layer)(large), expected[:, None])
        # In torchvision's blocks the sum is added to this layer's output in place.
        block = net.layer4[1]
        before = net.layer4[0](net.layer3(net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(large))))))))
        raw = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(before)))))
        torch.testing.assert_close(Features(net, "layer4.1.bn2")(large), raw.flatten(2).mT)


def test_features_of_an_open_clip_tower_are_its_tokens(images: Tensor) -> None:
    torch.manual_seed(0)
    tower = open_clip.transformer.VisionTransformer(32, 8, 24, 2, 2, 4.0, output_dim=10).eval()
    with torch.no_grad():
        expected = tower.ln_post(tower.transformer(tower._embeds(images)))
        torch.testing.assert_close(Features(tower, "ln_post")(images), expected)
        pooled = Features(tower, "ln_post", pooled=True)(images)
        torch.testing.assert_close(pooled[:, 0] @ tower.proj, tower(images))


class Pair(nn.Module):
    """Gives two tensors."""

    def forward(self, images: Tensor) -> tuple[str, Tensor, Tensor]:
        return "name", images.flatten(2), images


class Wrapped(nn.Module):
    """Calls `inner` as often as said and gives numbers, whatever that gives."""

    def __init__(self, inner: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(self.times):
            self.inner(images)
        return images.sum((1, 2, 3))


def test_of_a_tuple_the_first_tensor_counts(images: Tensor) -> None:
    assert torch.equal(Features(Wrapped(Pair()), "inner")(images), images.flatten(2))


def test_the_classifier_runs_frozen_and_is_left_as_it_was(images: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(3600, 2))
    net.train()
    net[4].weight.requires_grad = False
    before = {name: value.clone() for name, value in net.state_dict().items()}
    features = Features(net, "2")
    first, second = features(images), features(images)
    assert torch.equal(first, second) and not first.requires_grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert [p.requires_grad for p in net.parameters()] == [True] * 4 + [False, True]
    assert not any(module._forward_hooks for module in net.modules())


def test_gradients_flow_to_the_images_through_features(images: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(3600, 2))
    leaf = images.requires_grad_()
    Features(net, "1")(leaf).square().sum().backward()
    (expected,) = torch.autograd.grad(net[1](net[0](leaf)).square().sum(), leaf)
    torch.testing.assert_close(leaf.grad, expected)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_layers_that_cannot_be_features_are_refused(images: Tensor) -> None:
    net = resnet18(num_classes=4)
    with pytest.raises(ValueError, match=r"ResNet has no layer 'layr4': did you mean 'layer4'\?"):
        Features(net, "layr4")
    with pytest.raises(ValueError, match="no layer ''"):
        Features(net, "")
    with pytest.raises(ValueError, match="it has no layers"):
        Features(nn.Identity(), "norm")
    with pytest.raises(ValueError, match=r"'layer1.0.relu' is used 2 times"):
        Features(net, "layer1.0.relu")(images)
    with pytest.raises(ValueError, match="'inner' is used 0 times"):
        Features(Wrapped(nn.Identity(), 0), "inner")(images)
    for inner, shape in (
        (nn.Unflatten(3, (4, 8)), "(2, 3, 32, 4, 8)"),
        (nn.Flatten(0, 1), "(6, 32, 32)"),
        (nn.Flatten(0), "(6144,)"),
        (Wrapped(nn.Identity(), 0), "(2,)"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"gives {shape} for 2 images")):
            Features(Wrapped(inner), "inner")(images)
    images[1, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"images of Features\.forward"):
        Features(net, "layer4")(images)


# --- Translator -------------------------------------------------------------------------------------------------------


def loop(translator: Translator, features: Tensor, *, activation: bool) -> Tensor:
    """The token variant in training, number by number: each token's batch statistics are over images and width."""
    first, second, third = (layer for layer in translator.layers if isinstance(layer, nn.Linear))
    norms = [layer for layer in translator.layers if isinstance(layer, nn.BatchNorm1d)]
    images, tokens, _ = features.shape
    now = [[features[i, t] for t in range(tokens)] for i in range(images)]
    for linear, norm in zip((first, second), norms, strict=True):
        now = [[linear.weight @ z + linear.bias for z in row] for row in now]
        for t in range(tokens):
            values = torch.cat([row[t] for row in now])
            mean = values.mean()
            deviation = ((values - mean).square().mean() + norm.eps).sqrt()
            for row in now:
                row[t] = (row[t] - mean) / deviation * norm.weight[t] + norm.bias[t]
                if activation:
                    row[t] = row[t] * 0.5 * (1 + torch.erf(row[t] / math.sqrt(2)))
    return torch.stack([torch.stack([third.weight @ z + third.bias for z in row]) for row in now])


@pytest.mark.parametrize("activation", [False, True])
def test_the_token_translator_is_three_linear_layers_on_each_token(activation: bool) -> None:
    torch.manual_seed(0)
    translator = Translator(4, 6, 5, hidden=7, activation=activation).double()
    for norm in translator.layers:
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.uniform_(norm.weight)
            nn.init.uniform_(norm.bias)
    features = torch.randn(3, 4, 6, dtype=torch.float64)
    found = translator(features)
    assert found.shape == (3, 4, 5)
    torch.testing.assert_close(found, loop(translator, features, activation=activation), rtol=0, atol=1e-12)


def test_each_token_is_translated_by_itself_and_the_whole_by_the_other_variants() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 4, 6)
    changed = features.clone()
    changed[:, 1] += 1
    for variant, others_change in (("token", False), ("bottleneck", True), ("flat", True)):
        translator = Translator(4, 6, 5, variant=variant).eval()
        differs = (translator(features) != translator(changed)).any(2)
        assert differs[:, 1].all() and differs[:, [0, 2, 3]].all() == others_change
        assert differs[:, [0, 2, 3]].any() == others_change


def test_the_sizes_of_the_paper() -> None:
    def count(**arguments: object) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in Translator(577, 768, 768, **arguments).parameters())

    assert count() == 3 * (768 * 768 + 768) + 2 * 2 * 577 == 1_774_084
    wide, h = 577 * 768, BOTTLENECK
    assert count(variant="bottleneck") == (wide + 1) * h + (h + 1) * h + (h + 1) * wide + 4 * h
    # Three matrices of 443136² and their biases, and batch norm: 5.9e11.
    with pytest.raises(ValueError, match=r"flat translator of 577 × 768 features would have 5.9e\+11 parameters"):
        Translator(577, 768, 768, variant="flat")
    with pytest.raises(ValueError, match="'bottleneck' with few hidden units"):
        Translator(577, 768, 768, variant="bottleneck", hidden=2_000)
    flat = Translator(1, 24, 10, variant="flat")
    assert [tuple(p.shape) for p in flat.parameters() if p.ndim == 2] == [(24, 24), (24, 24), (10, 24)]


def test_its_arguments_make_its_like() -> None:
    first = Translator(3, 4, 5, variant="bottleneck", hidden=6, activation=True)
    again = Translator(**first.arguments)
    again.load_state_dict(first.state_dict())
    features = torch.randn(2, 3, 4)
    assert torch.equal(first.eval()(features), again.eval()(features))


def test_what_a_translator_refuses() -> None:
    translator = Translator(4, 6, 5)
    with pytest.raises(ValueError, match=r"features are \(4, 7\); the translator was made for \(4, 6\)"):
        translator(torch.zeros(2, 4, 7))
    with pytest.raises(ValueError, match="batch of one image has no statistics"):
        translator(torch.zeros(1, 4, 6))
    assert translator.eval()(torch.zeros(1, 4, 6)).shape == (1, 4, 5)
    with pytest.raises(ValueError, match=r"features of Translator\.forward"):
        translator(torch.zeros(0, 4, 6))
    with pytest.raises(ValueError, match=r"features of Translator\.forward"):
        translator(torch.full((2, 4, 6), torch.nan))
    with pytest.raises(ValueError, match="leave `hidden` out"):
        Translator(4, 6, 5, variant="flat", hidden=3)
    with pytest.raises(ValueError, match="Unknown translator 'mixer'; choose from token, bottleneck, flat"):
        Translator(4, 6, 5, variant="mixer")
    with pytest.raises(ValueError, match="width of Translator"):
        Translator(4, 0, 5)


# --- The language model's loss ----------------------------------------------------------------------------------------


def by_hand(decoder: nn.Module, conditioning: Tensor, sentences: Tensor) -> list[list[float]]:
    """log p of each next token, from a forward pass of each beginning of each sentence, without any padding."""
    rows = []
    with torch.no_grad():
        for z, sentence in zip(conditioning, sentences, strict=True):
            words = [token for token in sentence.tolist() if token != PAD]
            row = []
            for i in range(1, len(words)):
                start = torch.tensor([words[:i]])
                logits = decoder(input_ids=start, encoder_hidden_states=z[None], use_cache=False).logits[0, -1]
                row.append((logits[words[i]] - logits.exp().sum().log()).item())
            rows.append(row)
    return rows


def test_log_probabilities_are_those_of_each_next_token(decoder: nn.Module, conditioning: Tensor) -> None:
    decoder.eval()
    found = log_probabilities(decoder, conditioning, SENTENCES, pad=PAD)
    expected = torch.zeros(3, 7, dtype=torch.float64)
    for i, row in enumerate(by_hand(decoder, conditioning, SENTENCES)):
        expected[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert (found != 0).sum().item() == (SENTENCES[:, 1:] != PAD).sum().item()


def test_the_loss_is_that_of_transformers(decoder: nn.Module, conditioning: Tensor) -> None:
    decoder.eval()
    labels = SENTENCES.masked_fill(SENTENCES == PAD, -100)
    labels[:, :PROMPT] = -100
    theirs = decoder(
        input_ids=SENTENCES,
        attention_mask=(SENTENCES != PAD).long(),
        encoder_hidden_states=conditioning,
        labels=labels,
    ).loss
    found = sentence_loss(decoder, conditioning, SENTENCES, prompt=PROMPT, pad=PAD)
    # That of BERT computes in float32 whatever it is given.
    tolerance = 1e-10 if theirs.dtype == torch.float64 else 1e-6
    assert found.item() == pytest.approx(theirs.item(), abs=tolerance)
    words = [value for row in by_hand(decoder, conditioning, SENTENCES) for value in row[PROMPT - 1 :]]
    assert found.item() == pytest.approx(-sum(words) / len(words), abs=1e-10)


def test_gradients_reach_the_conditioning_and_no_parameter(decoder: nn.Module, conditioning: Tensor) -> None:
    decoder.train()  # BERT has dropout
    leaf = conditioning.requires_grad_()
    loss = sentence_loss(decoder, leaf, SENTENCES, prompt=PROMPT, pad=PAD)
    loss.backward()
    assert all(p.grad is None and p.requires_grad for p in decoder.parameters())
    assert all(module.training for module in decoder.modules())
    step = 1e-6 * torch.randn(leaf.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        up, down = (sentence_loss(decoder, leaf + s, SENTENCES, prompt=PROMPT, pad=PAD) for s in (step, -step))
    assert ((up - down) / 2).item() == pytest.approx((leaf.grad * step).sum().item(), rel=1e-5)
    assert (leaf.grad != 0).any(2).all()


def test_padding_does_not_matter(decoder: nn.Module, conditioning: Tensor) -> None:
    wide = F.pad(SENTENCES, (0, 2), value=PAD)
    torch.testing.assert_close(
        sentence_loss(decoder, conditioning, wide, prompt=PROMPT, pad=PAD),
        sentence_loss(decoder, conditioning, SENTENCES, prompt=PROMPT, pad=PAD),
        rtol=0,
        atol=1e-12,
    )
    short = log_probabilities(decoder, conditioning[1:2], SENTENCES[1:2, :4], pad=PAD)
    long = log_probabilities(decoder, conditioning, SENTENCES, pad=PAD)
    torch.testing.assert_close(short[0], long[1, :3], rtol=0, atol=1e-12)


def test_half_precision_gives_a_loss_in_float32(conditioning: Tensor) -> None:
    decoder = blip().bfloat16()
    found = sentence_loss(decoder, conditioning.bfloat16(), SENTENCES, prompt=PROMPT, pad=PAD)
    assert found.dtype == torch.float32
    exact = sentence_loss(blip(), conditioning, SENTENCES, prompt=PROMPT, pad=PAD)
    assert found.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize(
    "blind", [lambda: blip(is_decoder=False), lambda: bert(add_cross_attention=False)], ids=["blip", "bert"]
)
def test_a_decoder_without_cross_attention_is_refused(blind, conditioning: Tensor) -> None:
    with pytest.raises(ValueError, match="LMHeadModel is a decoder without cross-attention"):
        log_probabilities(blind(), conditioning, SENTENCES, pad=PAD)


def test_what_does_not_fit_the_decoder_is_refused(decoder: nn.Module, conditioning: Tensor) -> None:
    def refused(message: str, sentences: Tensor = SENTENCES, z: Tensor = conditioning, prompt: int = PROMPT) -> None:
        with pytest.raises(ValueError, match=message):
            sentence_loss(decoder, z, sentences, prompt=prompt, pad=PAD)

    refused(r"conditioning is \(5, 11\); the decoder takes tokens of width 12", z=conditioning[:, :, :11])
    refused("conditioning of sentence_loss", z=conditioning[:, :0])
    refused("3 sentences for 2 conditionings", z=conditioning[:2])
    refused("conditioning of sentence_loss", z=conditioning * torch.nan)
    refused("vocabulary mismatch: token 30 is not among the decoder's 30", SENTENCES + SENTENCES.eq(29))
    refused("token -100 is not", SENTENCES.masked_fill(SENTENCES == 29, -100))
    refused("12 tokens do not fit the decoder: give 2 to 11", F.pad(SENTENCES, (0, 4), value=3))
    refused("no word between its prompt and its end", torch.tensor([[1, 7, 2, 0], [1, 7, 4, 2], [1, 7, 4, 2]]))
    refused("conditioning of sentence_loss", SENTENCES[:0], conditioning[:0])
    refused("no word between", SENTENCES, prompt=8)
    refused("prompt of sentence_loss", prompt=0)
    refused("padding, or has some before a word", SENTENCES.flip(1))
    with pytest.raises(ValueError, match="nothing but padding"):
        log_probabilities(decoder, conditioning, SENTENCES * torch.tensor([[1], [0], [1]]), pad=PAD)
    sentences = F.pad(SENTENCES, (0, 3), value=3)  # eleven tokens, of which ten go in
    assert sentence_loss(decoder, conditioning, sentences.masked_fill(sentences == 0, 3), prompt=2, pad=PAD) > 0
