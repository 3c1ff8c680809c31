"""What may differ between two arithmetics, and what may not.

Another number of threads, another batch, another process or CPU sums the same terms in another order, and a float32
then differs in its last bits. Only the same code on the same input in the same setting gives the same bits.
"""

from collections.abc import Mapping

from torch import Tensor

# Of a tensor's largest entry: several times the 3e-6 that `storage.cache` tells of, and far less than one wrong term.
ROUNDING = 2e-5


def assert_equal_up_to_rounding(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Both hold the same tensors, each within `ROUNDING` of its largest entry."""
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].shape == values.shape and found[name].dtype == values.dtype
        if values.numel():
            assert (found[name] - values).abs().max() <= ROUNDING * values.abs().max(), name


def clear_winners(scores: Tensor) -> Tensor:
    """The rows [n, choices] whose highest entry leads the next by more than rounding can make up.

    In the others, two arithmetics may choose differently, and both are right.
    """
    first, second = scores.topk(2, dim=1).values.T
    return first - second > 2 * ROUNDING * scores[scores.isfinite()].abs().max()
