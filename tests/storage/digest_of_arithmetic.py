"""Run as a script: a hash of what torch, numpy and the world make of fixed inputs, in a process of its own."""

import hashlib
import json
import os

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models import resnet18

from xaikit.world.scene_birds import Birds
from xaikit.world.scene_nine import Nine


def main() -> None:
    draw = np.random.default_rng(0)
    a, d = draw.normal(size=(300, 257)).astype(np.float32), draw.normal(size=(120, 120))
    long, x, q = draw.normal(size=200_003), torch.from_numpy(a), torch.from_numpy(a[:260, :256].reshape(4, 65, 8, 32))
    found = {
        "numpy": [a @ a.T, np.exp(long), np.log(np.abs(long)), np.linalg.svd(d)[0], np.argsort(long.round(2))],
        "torch": [
            x @ x.T, F.linear(x, x), torch.linalg.svd(x)[0], torch.linalg.lstsq(x, x[:, :3]).solution, x.exp(),
            x.softmax(1), torch.erf(x), F.scaled_dot_product_attention(q, q, q), torch.fft.fft(x).abs(), x.sum(),
        ],
        "training": list(trained().values()),
        "world": [np.stack([drawn(scene, seed) for scene in (Birds, Nine) for seed in range(20)])],
    }  # fmt: skip
    digests = {
        name: hashlib.sha256(b"".join(np.ascontiguousarray(value).tobytes() for value in values)).hexdigest()
        for name, values in found.items()
    }
    print(json.dumps(digests | {"capability": torch.backends.cpu.get_cpu_capability()}))


def trained() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = resnet18(num_classes=2)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    images, labels = torch.rand(24, 3, 28, 28), torch.arange(24) % 2
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return {name: value.detach() for name, value in model.state_dict().items()}


def drawn(family: type, seed: int) -> np.ndarray:
    values = {name: family.values(name)[seed % len(family.values(name))] for name in family.factor_names()}
    return family(seed=seed, **values).image(64)


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    main()
