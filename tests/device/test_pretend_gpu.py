"""The pretended GPU refuses what torch's own fake tensors refuse, and nothing that a GPU does not."""

import copy
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretend_gpu import pretend_gpu
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

HERE = Path(__file__).parent


@pytest.fixture
def gpu() -> Iterator[None]:
    with pretend_gpu():
        yield


# Each takes two tensors [3], the first of floats, the second of what its name says.
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add": lambda a, b: a + b,
    "add in place": lambda a, b: a.add_(b),
    "a number": lambda a, b: a * b.sum(),
    "a number in front": lambda a, b: b.sum() * a,
    "matrix product": lambda a, b: a[None] @ b[:, None],
    "where": lambda a, b: torch.where(a > 0, a, b),
    "mask that is filled": lambda a, b: a.masked_fill(b > 0, 0.0),
    "cat": lambda a, b: torch.cat([a, b]),
    "stack": lambda a, b: torch.stack([a, b]),
    "indexed": lambda a, b: a[b.long()],
    "gathered": lambda a, b: a.gather(0, b.long()),
    "selected": lambda a, b: a.index_select(0, b.long()),
    "embedded": lambda a, b: F.embedding(b.long(), a[:, None]),
    "put": lambda a, b: a.index_put((torch.tensor([0, 1, 2]),), b),
    "put a number": lambda a, b: a.index_put((torch.tensor([0]),), b.sum()),
    "scattered": lambda a, b: a.scatter(0, torch.zeros_like(a, dtype=torch.int64), b),
    "added at": lambda a, b: a.index_add(0, b.long(), a),
    "copied": lambda a, b: a.copy_(b),
    "set": lambda a, b: a.__setitem__(slice(0, 2), b[:2]),
    "cross entropy": lambda a, b: F.cross_entropy(a[None], b[:1].long()),
    "normed": lambda a, b: F.layer_norm(a, (3,), b),
    "convolved": lambda a, b: F.conv1d(a[None, None], b[None, None]),
    "distances": lambda a, b: torch.cdist(a[None], b[None]),
    "einsum": lambda a, b: torch.einsum("i,i->", a, b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.5),
    "one hot": lambda a, b: F.one_hot(a.long(), 3) * b,
    "like the other": lambda a, b: a.to(b) + b,
    "new": lambda a, b: a.new_zeros(3) + b,
    "zeros": lambda a, b: torch.zeros(3) + b,
    "zeros there": lambda a, b: torch.zeros(3, device=a.device) + b,
    "searched": lambda a, b: torch.searchsorted(a.sort().values, b),
    "blended": lambda a, b: torch.addcmul(a, a, b),
    "attention": lambda a, b: F.scaled_dot_product_attention(a[None, :, None], b[None, :, None], b[None, :, None]),
}
# What a GPU refuses and torch's fake tensors let pass.
ONLY_A_GPU_REFUSES = {("indexed", "cpu", "cuda")}


def outcome(operation: Callable[[Tensor, Tensor], Any], first: str, second: str) -> str:
    """Where the result is, or that there is none."""
    a, b = torch.ones(3).to(first), torch.tensor([0.0, 2.0, 1.0]).to(second)
    try:
        result = operation(a, b)
    except RuntimeError:
        return "refused"
    return "none" if result is None else result.device.type


@pytest.mark.parametrize("name", OPERATIONS)
def test_it_says_what_torch_itself_says_of_two_devices(name: str) -> None:
    for first, second in itertools.product(("cpu", "cuda"), repeat=2):
        with pretend_gpu():
            here = outcome(OPERATIONS[name], first, second)
        if (name, first, second) in ONLY_A_GPU_REFUSES:
            assert here == "refused"
            continue
        with FakeTensorMode():
            assert here == outcome(OPERATIONS[name], first, second), (first, second)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda x: x.numpy(), "can't convert cuda:0"),
        (lambda x: np.asarray(x), "can't convert cuda:0"),
        (lambda x: np.stack([x, x]), "can't convert cuda:0"),
        (lambda x: x.pin_memory(), "cannot pin"),
        (lambda x: x + torch.from_numpy(np.ones(3, np.float32)), "on the same device"),
        (lambda x: torch.rand(3, device="cuda", generator=torch.Generator()), "device type for generator"),
        (lambda x: x.uniform_(generator=torch.Generator()), "device type for generator"),
        (lambda x: torch.multinomial(x, 2, generator=torch.Generator()), "device type for generator"),
        (lambda x: torch.zeros(()).add_(x.sum()), "on the same device"),
        (lambda x: torch.arange(3.0)[x.long()], "indices should be either on cpu"),
        (lambda x: torch.arange(3.0)[x > 0], "indices should be either on cpu"),
    ],
)
def test_what_a_gpu_refuses(attempt: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises((RuntimeError, TypeError), match=message):
        attempt(torch.ones(3, device="cuda"))


@pytest.mark.usefixtures("gpu")
def test_what_is_not_deterministic_there_raises_when_it_was_forbidden() -> None:
    x = torch.rand(1, 2, 4, 4, device="cuda", requires_grad=True)
    pooled = F.adaptive_max_pool2d(x, 2).sum()
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation on CUDA"):
            pooled.backward()
        with pytest.raises(RuntimeError, match="histc does not have"):
            torch.histc(x)
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="histc does not have"):
            torch.histc(x)
        F.interpolate(x, scale_factor=2, mode="bilinear").sum().backward()  # torch takes another form of it on a GPU
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("gpu")
def test_networks_train_there_and_leave_their_gradients_there() -> None:
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    model = copy.deepcopy(nn.Sequential(*layers).to("cuda"))
    block = nn.TransformerEncoderLayer(8, 2, batch_first=True).cuda()
    for optimiser in (torch.optim.AdamW, torch.optim.SGD):
        step = optimiser([*model.parameters(), *block.parameters()], 1e-3)
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(torch.rand(4, 3, 8, 8).to("cuda"))
        assert logits.dtype == torch.bfloat16
        loss = F.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0]).cuda())
        (loss + block(torch.rand(2, 3, 8, device="cuda")).square().mean()).backward()
        step.step()
        step.zero_grad(set_to_none=False)
    assert {each.device.type for each in model.state_dict().values()} == {"cuda"}
    assert nn.Linear(2, 2).to(torch.ones(1, device="cuda")).weight.is_cuda
    assert {each.grad.device.type for each in model.parameters()} == {"cuda"}


@pytest.mark.usefixtures("gpu")
def test_gradients_go_from_one_device_to_the_other_and_back() -> None:
    x = torch.ones(3, requires_grad=True)
    y = (2 * x.cuda()).cpu()[1:]
    (3 * y).sum().backward()
    assert x.grad.tolist() == [0, 6, 6] and x.grad.device.type == "cpu"
    assert torch.func.grad(lambda t: (t * t.to("cuda").cpu()).sum())(torch.ones(2)).tolist() == [2, 2]


@pytest.mark.usefixtures("gpu")
def test_copies_and_views_are_where_they_were_made() -> None:
    x = torch.ones(2, 3, device="cuda")
    for other in (
        x.T,
        x[:, 1:],
        x.detach(),
        copy.deepcopy(x),
        x.clone(),
        x.double(),
        x.new_empty(0),
        x > 0,
        x.to("cuda"),
    ):
        assert other.device.type == "cuda" and other.is_cuda and not other.is_cpu and not other.get_device()
    assert x[torch.tensor([True, False])].is_cuda and x[torch.tensor([1, 0])].is_cuda  # indices may be on the CPU
    for other in (x.cpu(), x.to("cpu", torch.float64), x.to(torch.ones(1)), torch.empty(0), torch.tensor(x.tolist())):
        assert other.device.type == "cpu" and other.is_cpu and not other.is_cuda and np.asarray(other) is not None
    y = torch.zeros(2, 3)
    y[:] = x
    assert y.device.type == "cpu" and y.numpy().all()
    assert torch.as_tensor([1], device="cuda").device.type == torch.tensor(1, device=x.device).device.type == "cuda"


def test_outside_of_it_nothing_has_changed() -> None:
    before = {name: vars(torch.Tensor).get(name) for name in ("device", "numpy", "to", "is_cuda")}
    with pretend_gpu():
        assert torch.cuda.is_available() and torch.cuda.device_count() == 1
        x = torch.ones(2, device="cuda")
    assert before == {name: vars(torch.Tensor).get(name) for name in before}
    assert (x + torch.ones(2)).numpy().tolist() == [2, 2]


def test_a_whole_process_has_it_where_its_startup_file_is_on_the_path() -> None:
    code = "import torch; print(torch.cuda.is_available(), torch.ones(1, device='cuda').device)"
    environment = {"PYTHONPATH": str(HERE / "startup"), "XAIKIT_PRETEND_GPU": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "True cuda:0\n"
