"""Small ONNX files, written byte by byte: what is needed of protobuf is a number and a length before each field."""

from collections.abc import Sequence

from torch import Tensor, nn

FLOAT = 1  # of ONNX's data types
Shape = Sequence[int | str]


def varint(value: int) -> bytes:
    head, value = value & 127, value >> 7
    return bytes([head | 128]) + varint(value) if value else bytes([head])


def number(place: int, value: int) -> bytes:
    return varint(place << 3) + varint(value)


def field(place: int, *content: bytes | str) -> bytes:
    joined = b"".join(each.encode() if isinstance(each, str) else each for each in content)
    return varint(place << 3 | 2) + varint(len(joined)) + joined


def weights(name: str, tensor: Tensor, elsewhere: str = "") -> bytes:
    shape = b"".join(number(1, side) for side in tensor.shape)
    if elsewhere:
        held = field(13, field(1, "location"), field(2, elsewhere)) + number(14, 1)
    else:
        held = field(9, tensor.detach().numpy().tobytes())
    return field(5, shape, number(2, FLOAT), field(8, name), held)


def value(place: int, name: str, kind: int, shape: Shape) -> bytes:
    sides = [field(1, number(1, side) if isinstance(side, int) else field(2, side)) for side in shape]
    return field(place, field(1, name), field(2, field(1, number(1, kind), field(2, *sides))))


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **integers: int) -> bytes:
    names = [field(1, each) for each in inputs] + [field(2, each) for each in outputs]
    given = [field(5, field(1, key), number(3, each), number(20, 2)) for key, each in integers.items()]
    return field(1, *names, field(4, kind), *given)


def model(*parts: bytes) -> bytes:
    return number(1, 8) + field(7, *parts, field(2, "g")) + field(8, field(1, ""), number(2, 13))


def linear(
    layer: nn.Linear, shape: Shape = ("batch", 3, 8, 8), *, kind: int = FLOAT, elsewhere: str = "", pool: bool = False,
    twice: bool = False, beside: bool = False,
) -> bytes:  # fmt: skip
    """A linear layer of all pixels, or with `pool` of each channel's mean; `twice` the logits, or another input."""
    steps = [node("GlobalAveragePool", ["images"], ["means"])] if pool else []
    steps += [node("Flatten", ["means" if pool else "images"], ["flat"]),
              node("Gemm", ["flat", "weight", "bias"], ["logits"], transB=1)]  # fmt: skip
    given = [value(12, "logits", FLOAT, [shape[0], len(layer.weight)])]
    if twice:
        steps.append(node("Identity", ["logits"], ["again"]))
        given.append(value(12, "again", FLOAT, [shape[0], len(layer.weight)]))
    taken = [value(11, "images", kind, shape)] + ([value(11, "more", FLOAT, [1])] if beside else [])
    own = [weights("weight", layer.weight, elsewhere), weights("bias", layer.bias)]
    return model(*steps, *own, *taken, *given)
