"""What a network costs, from its shapes alone: operations, parameters, and the numbers kept while it runs.

FLOPs are counted as torch's own counter does: two for each multiplication of a matrix product or convolution, none for
the rest. Nothing is loaded for it, as a preflight must answer at once; the tests compare with the networks themselves.

All of it is said for one image. `kept` is what backpropagation needs of a forward pass, to weights and input or, where
they are `frozen`, to the input alone; `passing` the most that a forward pass without gradients holds at a time. Both
are counted in numbers, not bytes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Number = float | int


@dataclass(frozen=True)
class ViT:
    """A vision transformer with a class token; attention is fused, so that no weights of it are kept."""

    pixels: int
    patch: int
    width: int
    layers: int
    heads: int
    output: int = 0  # features or classes that the class token is projected to; 0: none
    mlp: Number = 4.0

    @property
    def tokens(self) -> int:
        return (self.pixels // self.patch) ** 2 + 1

    @property
    def _hidden(self) -> int:
        return int(self.mlp * self.width)

    @property
    def flops(self) -> Number:
        linear = 4 * self.width**2 + 2 * self.width * self._hidden
        attention = 2 * self.tokens * self.width
        patches = (self.tokens - 1) * 3 * self.patch**2 * self.width
        return 2.0 * (self.layers * self.tokens * (linear + attention) + patches + self.width * self.output)

    @property
    def parameters(self) -> int:
        """Weights and biases; norms and positions are left out, less than a hundredth of them."""
        block = 4 * self.width * (self.width + 1) + self._hidden * (2 * self.width + 1) + self.width
        return self.layers * block + self.width * (3 * self.patch**2 + self.tokens + self.output)

    @property
    def passing(self) -> int:
        # The stream and its norm beside q, k, v and what they give, or beside the MLP's hidden layer twice.
        return self.tokens * (2 * self.width + max(4 * self.width, 2 * self._hidden))

    def kept(self, *, frozen: bool = False) -> int:
        # Two norms' inputs, q, k, v and their result, the GELU's input; with weights the four inputs of layers as well.
        block = 2 * self.width + 4 * self.width + self._hidden
        if not frozen:
            block += 2 * self.width + self._hidden
        return self.layers * self.tokens * block

    @property
    def attention(self) -> int:
        """The attention weights of one layer, for what asks for them."""
        return self.heads * self.tokens**2


@dataclass(frozen=True)
class ResNet:
    """A ResNet of bottlenecks, torchvision's or (`clip`) CLIP's, with three convolutions first and attention last."""

    pixels: int
    layers: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    output: int = 1_000
    clip: bool = False

    def convolutions(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each: channels in, channels out, kernel and the side of what it gives."""
        side = self.pixels // 2
        if self.clip:
            half = self.width // 2
            yield from ((3, half, 3, side), (half, half, 3, side), (half, self.width, 3, side))
        else:
            yield 3, self.width, 7, side
        side, channels = side // 2, self.width
        for stage, blocks in enumerate(self.layers):
            middle = self.width * 2**stage
            for block in range(blocks):
                before, halves = side, stage > 0 and block == 0
                side = side // 2 if halves else side
                yield channels, middle, 1, before
                # torchvision strides in the 3 × 3; CLIP pools behind it.
                yield middle, middle, 3, before if self.clip else side
                yield middle, 4 * middle, 1, side
                if block == 0:
                    yield channels, 4 * middle, 1, side
                channels = 4 * middle

    @property
    def _last(self) -> tuple[int, int]:
        """Channels and cells of the last map."""
        return 4 * self.width * 2 ** (len(self.layers) - 1), (self.pixels // 2 ** (len(self.layers) + 1)) ** 2

    @property
    def flops(self) -> Number:
        found = sum(2.0 * i * o * kernel**2 * side**2 for i, o, kernel, side in self.convolutions())
        channels, cells = self._last
        if not self.clip:
            return found + 2.0 * channels * self.output
        # open_clip lets every cell ask, and takes the mean's answer.
        pool = (cells + 1) * (3 * channels**2 + 2 * (cells + 1) * channels + channels * self.output)
        return found + 2.0 * pool

    @property
    def parameters(self) -> int:
        found = sum(i * o * kernel**2 + 2 * o for i, o, kernel, _ in self.convolutions())
        channels, cells = self._last
        head = (channels + 1) * self.output
        return found + head + (3 * channels * (channels + 1) + (cells + 1) * channels if self.clip else 0)

    @property
    def maps(self) -> int:
        """The numbers that all convolutions give."""
        return sum(o * side**2 for _, o, _, side in self.convolutions())

    @property
    def passing(self) -> int:
        return 3 * max(o * side**2 for _, o, _, side in self.convolutions())

    def kept(self, *, frozen: bool = False) -> int:
        # What each convolution gives goes into a batch norm, and what it takes has come out of a ReLU.
        return self.maps + (0 if frozen else sum(i * side**2 for i, _, _, side in self.convolutions()))


@dataclass(frozen=True)
class Decoder:
    """A BERT that looks at an image's tokens: what a sentence of so many `words` costs it."""

    width: int = 768
    layers: int = 12
    vocabulary: int = 30_524
    mlp: Number = 4.0

    def flops(self, words: int, conditions: int) -> Number:
        """Of one forward pass over a sentence and the image's tokens that it looks at."""
        own = words * (4 + 2 + 2 * self.mlp) * self.width**2 + 2 * words**2 * self.width
        looking = 2 * conditions * self.width**2 + 2 * words * conditions * self.width
        head = words * (self.width**2 + self.width * self.vocabulary)
        return 2.0 * (self.layers * (own + looking) + head)

    @property
    def parameters(self) -> int:
        return int(self.layers * (8 + 2 * self.mlp) * self.width**2) + self.vocabulary * self.width

    def kept(self, words: int, conditions: int) -> int:
        """What a gradient to the conditions needs: each layer's keys and values of these, and the words' own."""
        # Three norms' inputs, q, k, v and results of both attentions, the GELU's input; the loss has the logits twice.
        own = words * (9 + self.mlp) * self.width
        return int(self.layers * (own + 2 * conditions * self.width)) + 2 * words * self.vocabulary


def open_clip_tower(name: str) -> ViT | ResNet:
    """The image tower of an open_clip model, from its configuration. Raises ValueError for a name without one."""
    config = _open_clip_config(name)
    vision, features = config["vision_cfg"], config["embed_dim"]
    if isinstance(vision["layers"], list):
        return ResNet(vision["image_size"], tuple(vision["layers"]), vision["width"], features, clip=True)
    heads = vision["width"] // vision.get("head_width", 64)
    return ViT(
        vision["image_size"], vision["patch_size"], vision["width"], vision["layers"], heads, features,
        vision.get("mlp_ratio", 4.0),
    )  # fmt: skip


@dataclass(frozen=True)
class TextTower:
    """CLIP's text transformer, in numbers a text."""

    length: int
    width: int
    layers: int
    heads: int
    vocabulary: int

    @property
    def flops(self) -> Number:
        return 2.0 * self.layers * self.length * (12 * self.width**2 + 2 * self.length * self.width)

    @property
    def parameters(self) -> int:
        return self.layers * 12 * self.width**2 + self.vocabulary * self.width

    @property
    def passing(self) -> int:
        return self.length * 10 * self.width + self.heads * self.length**2


def open_clip_texts(name: str) -> TextTower:
    """The text tower of an open_clip model, from its configuration. Raises ValueError for a name without one."""
    text = _open_clip_config(name)["text_cfg"]
    return TextTower(text["context_length"], text["width"], text["layers"], text["heads"], text["vocab_size"])


def _open_clip_config(name: str) -> Mapping[str, Any]:
    package = find_spec("open_clip")  # found and not loaded, as it would load torch
    if package is None or package.origin is None:
        raise ValueError("open_clip is not installed, and its models' shapes lie in it: pip install open_clip_torch.")
    file = Path(package.origin).parent / "model_configs" / f"{name}.json"
    if not file.is_file():
        raise ValueError(f"open_clip has no model {name!r}: choose one of its model_configs.")
    return json.loads(file.read_text(encoding="utf-8"))


Tower = ViT | ResNet

# timm's vit_base_patch16_384, the classifier of paper 2; torchvision's resnet50 at 224 pixels.
VIT_B16_384 = ViT(384, 16, 768, 12, 12, 1_000)
RESNET50 = ResNet(224)


@dataclass(frozen=True)
class StableDiffusion:
    """Stable Diffusion 1.5 at 512 pixels, by torch's counter on its blocks (the test counts them again)."""

    step: Number = 803_273_441_280  # FLOPs of the denoiser, for a latent and a prompt
    decode: Number = 2_514_518_933_504
    encode: Number = 1_116_658_466_816
    parameters: int = 859_520_964 + 83_653_863 + 123_060_480  # denoiser, autoencoder, text tower
    # The autoencoder's widest maps: 256 channels at 512 × 512, beside two more of them.
    passing: int = 3 * 256 * 512 * 512


STABLE_DIFFUSION = StableDiffusion()
