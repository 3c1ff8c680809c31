"""The linear probe: what it is trained to, what it sees, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaikit.perturbation.linear_probe import LinearProbe, ZeroShot, embed, train_head


def clusters(n: int = 300, noise: float = 0.15) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    centres = F.normalize(torch.randn(3, 16, generator=draw), dim=1)
    return F.normalize(centres[labels] + noise * torch.randn(n, 16, generator=draw), dim=1), labels


def test_the_head_comes_to_the_optimum_of_its_loss() -> None:
    embeddings, labels = clusters(210, noise=1.0)  # the classes overlap, so the loss has an optimum
    head = train_head(embeddings, labels, 3, seed=0, epochs=2_000, batch=210)
    slow = nn.Linear(16, 3)
    optimiser = torch.optim.Adam(slow.parameters(), 0.01)
    for _ in range(2_000):
        optimiser.zero_grad()
        loss = F.cross_entropy(slow(embeddings), labels)
        loss.backward()
        optimiser.step()
    found = F.cross_entropy(head(embeddings), labels)
    assert found.item() == pytest.approx(loss.item(), rel=1e-3)
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_new_images_are_classified_and_a_seed_gives_the_same_head() -> None:
    embeddings, labels = clusters()
    head, again = (train_head(embeddings[:200], labels[:200], 3, seed=1, epochs=30) for _ in range(2))
    assert torch.equal(head.weight, again.weight)
    assert not torch.equal(head.weight, train_head(embeddings[:200], labels[:200], 3, seed=2, epochs=30).weight)
    assert (head(embeddings[200:]).argmax(1) == labels[200:]).double().mean() > 0.9


def test_both_settings_see_unit_embeddings() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Dropout(0.5))
    images = torch.rand(7, 3, 2, 2)
    found = embed(encoder, images.split(3))
    assert encoder.training  # put back
    torch.testing.assert_close(found.norm(dim=1), torch.ones(7))
    encoder.eval()
    classes, head = F.normalize(torch.randn(4, 16), dim=1), nn.Linear(16, 4)
    torch.testing.assert_close(ZeroShot(encoder, classes)(images), found @ classes.T)
    torch.testing.assert_close(LinearProbe(encoder, head)(images), head(found))


def test_bad_input() -> None:
    embeddings, labels = clusters(30)
    with pytest.raises(ValueError, match="do not cover the 4 classes"):
        train_head(embeddings, labels, 4, seed=0)
    with pytest.raises(ValueError, match="do not cover the 2 classes"):
        train_head(embeddings, labels, 2, seed=0)
    with pytest.raises(ValueError, match="29 labels for 30 images"):
        train_head(embeddings, labels[1:], 3, seed=0)
    with pytest.raises(ValueError, match=r"batches\[0\] of embed"):
        embed(nn.Flatten(), [torch.full((1, 3, 2, 2), torch.nan)])
    with pytest.raises(ValueError, match="no images to embed"):
        embed(nn.Flatten(), [])


def test_half_precision_stays_in_the_tower() -> None:
    """Under autocast cosines and logits are in float32, from what the tower gave in bfloat16."""
    torch.manual_seed(0)
    encoder, images = nn.Sequential(nn.Flatten(), nn.Linear(48, 16)), torch.rand(8, 3, 4, 4)
    classes, labels = clusters(30)
    head = train_head(classes, labels, 3, seed=0, epochs=2)
    for model in (ZeroShot(encoder, classes[:3]), LinearProbe(encoder, head)):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            features, found = encoder(images), model(images)
        assert features.dtype == torch.bfloat16 and found.dtype == torch.float32
        assert torch.equal(found, model.classify(F.normalize(features.float(), dim=1)))
