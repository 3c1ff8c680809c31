"""Which convolutions of a network are projections on its shortcuts, known by what is connected with what.

A residual block adds what went through its convolutions to what went around them. Where the two differ in size, a
single convolution on the way around makes them equal (He et al., 2016, Eq. 2). Names differ from library to library, so
the network is run once on a small grey image, and the graph that autograd keeps of it is looked at.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xaikit.models.hooks import check_hookable, evaluating, in_own_precision, watching, with_gradients

# Sides of the images that a network is tried with. What comes after the convolutions often takes one size alone, and
# then fails; by that time they have run.
SIDES = (64, 224, 32, 128, 299, 28)

_Node = torch.autograd.graph.Node


def trunk(model: nn.Module, images: Float[Tensor, "batch channels height width"] | None = None) -> dict[str, nn.Conv2d]:
    """The convolutions that a pass in evaluation mode runs, but for the projections on shortcuts, by their names.

    A projection is the only convolution on its way to an addition, whose other side comes through several from the same
    place. `images` are needed where the model does not take grey squares of any of the sides `SIDES`. Raises ValueError
    where it cannot be run, or hooks in it are not heard.
    """
    check_hookable(model)
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    if not convolutions:
        return {}
    first = next(iter(convolutions.values()))
    best: _Run | None = None
    for tried in [images] if images is not None else _squares(first):
        run = _Run(model, tried)
        if best is None or run.error is None or len(run.nodes) > len(best.nodes):
            best = run
        if best.error is None:
            break
    if best.error is not None and len(best.nodes) < len(convolutions):
        missing = next(name for name, layer in convolutions.items() if layer not in best.nodes)
        raise ValueError(
            f"The {type(model).__name__} does not get to {missing!r} ({best.error}): give a few images that it takes."
        ) from best.error
    projections = best.projections()
    return {name: layer for name, layer in convolutions.items() if layer in best.nodes and layer not in projections}


def _squares(first: nn.Conv2d) -> Iterator[Tensor]:
    for side in SIDES:
        yield torch.full((2, first.in_channels, side, side), 0.5, dtype=first.weight.dtype, device=first.weight.device)


class _Run:
    """What one pass did: the node in autograd's graph of each convolution that ran, and of all that reaches it."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.nodes: dict[nn.Module, _Node] = {}
        self.error: Exception | None = None
        roots: list[Tensor] = []

        def see(module: nn.Module, output: object) -> None:
            if isinstance(output, Tensor) and output.grad_fn is not None:
                roots.append(output)
                if isinstance(module, nn.Conv2d):
                    self.nodes[module] = output.grad_fn

        with evaluating(model), in_own_precision(), torch.enable_grad():
            leaf = with_gradients(model, images).detach().requires_grad_()
            try:
                with watching(model, see):
                    model(leaf * 1)  # some networks change their input in place
            except Exception as error:  # the model is not ours: anything may be raised
                self.error = error
        self._connect(roots, leaf)

    def _connect(self, roots: list[Tensor], leaf: Tensor) -> None:
        """`before[node]`: the nodes that it takes tensors from which are made of the image, not of weights alone."""
        after: dict[_Node, list[_Node]] = {}
        pending, start, seen = [root.grad_fn for root in roots], None, set()
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            if getattr(node, "variable", None) is leaf:
                start = node
            for each, _ in node.next_functions:
                if each is not None:
                    after.setdefault(each, []).append(node)
                    pending.append(each)
        self.before: dict[_Node, list[_Node]] = {}
        pending = [start] if start is not None else []
        while pending:
            node = pending.pop()
            if node in self.before:
                continue
            self.before[node] = []
            pending += after.get(node, [])
        for node, users in after.items():
            if node in self.before:
                for user in users:
                    self.before[user].append(node)

    def projections(self) -> set[nn.Module]:
        """The layers that are the only convolution between an addition and a place that its other side comes from."""
        layers = {node: layer for layer, node in self.nodes.items()}
        found = set()
        for node, sides in self.before.items():
            if type(node).__name__.startswith("AddBackward") and len(sides) == 2:
                for side, other in (sides, sides[::-1]):
                    on_the_way = self._straight_to(side, layers)
                    if on_the_way is None:
                        continue
                    start = {on_the_way, *self._straight_from(on_the_way, layers)} - {on_the_way}
                    if self._convolutions(other, start, on_the_way, layers) > 1:
                        found.add(layers[on_the_way])
        return found

    def _straight_to(self, node: _Node, layers: dict[_Node, nn.Module]) -> _Node | None:
        """The last convolution before `node`, where nothing joins in between."""
        while node not in layers:
            if len(self.before.get(node, ())) != 1:
                return None
            (node,) = self.before[node]
        return node

    def _straight_from(self, node: _Node, layers: dict[_Node, nn.Module]) -> Iterator[_Node]:
        """What comes before a convolution, back to the first node where something joins, or to another convolution."""
        while len(self.before[node]) == 1:
            (node,) = self.before[node]
            yield node
            if node in layers:
                return

    def _convolutions(self, node: _Node, start: set[_Node], around: _Node, layers: dict[_Node, nn.Module]) -> int:
        """The most convolutions on a way from `start` to `node` that does not go through `around`; -1 without a way."""
        most: dict[_Node, int] = {around: -1, **dict.fromkeys(start, 0)}
        pending = [node]
        while pending:
            current = pending[-1]
            if current in most:
                pending.pop()
            elif waiting := [each for each in self.before.get(current, ()) if each not in most]:
                pending += waiting
            else:
                longest = max((most[each] for each in self.before.get(current, ())), default=-1)
                most[current] = -1 if longest < 0 else longest + (current in layers)
                pending.pop()
        return most[node]
