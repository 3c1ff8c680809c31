"""The Muon optimiser (Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks") in float32."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

# The quintic a x + b x^3 + c x^5, iterated, takes every singular value in (0, 1] close to 1 (Jordan et al., 2024).
NEWTON_SCHULZ, ITERATIONS = (3.4445, -4.7750, 2.0315), 5


class Muon(torch.optim.Optimizer):
    """Momentum whose every step is made nearly orthogonal, for the weight matrices between a network's ends.

    The update is that of `torch.optim.Muon`, which works in bfloat16, matrix by matrix: slow on processors without
    bfloat16. Here it is float32, and all matrices of one shape are done at once.

    Raises ValueError for a parameter that is not a matrix.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon takes matrices only: give the other parameters to another optimiser.")

    @torch.no_grad()
    def step(self) -> None:
        """Take one step."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for (rows, columns), params in alike.items():
                directions = orthogonalised(torch.stack([self._momentum(p, group["momentum"]) for p in params]))
                for p, direction in zip(params, directions, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(direction, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)

    def _momentum(self, p: nn.Parameter, momentum: float) -> Float[Tensor, "rows columns"]:
        """Nesterov's look-ahead from the running mean of the gradients."""
        mean = self.state[p].setdefault("mean", torch.zeros_like(p))
        mean.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(mean, momentum)


def orthogonalised(matrices: Float[Tensor, "matrices rows columns"]) -> Float[Tensor, "matrices rows columns"]:
    """Each matrix with its singular values moved to about 1 (between 0.7 and 1.2) by Newton-Schulz iterations."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalised(matrices.mT).mT
    a, b, c = NEWTON_SCHULZ
    x = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x
