"""The store: every image's coefficients once, whoever computes them, and nothing damaged is believed."""

import errno
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from open_clip.transformer import VisionTransformer
from processes import wait_for
from rounding import assert_equal_up_to_rounding
from safetensors import safe_open
from torch import Tensor, nn

from xaikit.decomposition import store as module
from xaikit.decomposition.decompose import Coefficients, Readout, coefficients
from xaikit.decomposition.heads import mean_contributions
from xaikit.decomposition.store import DecomposedDataset, fill
from xaikit.decomposition.textspan import ContributionMoments, textspan
from xaikit.storage import cache, paths
from xaikit.storage.seeding import generator

SIZE = 24


def build(seed: int = 0, **changes: object) -> VisionTransformer:
    torch.manual_seed(seed)
    sizes = {"patch_size": 8, "width": 32, "layers": 3, "heads": 4, "mlp_ratio": 2, "output_dim": 20}
    tower = VisionTransformer(SIZE, **(sizes | changes))
    with torch.no_grad():
        for parameter in tower.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return tower.eval()


def draw(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


class Images(torch.utils.data.Dataset):
    """Images that are slow to load, and a file that says which were."""

    def __init__(self, count: int, log: Path | None = None, seconds: float = 0.0) -> None:
        self.images, self.log, self.seconds, self.loaded = draw(count), log, seconds, []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        self.loaded.append(index)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{index}\n")
        time.sleep(self.seconds)
        return self.images[index]


def names(count: int) -> list[str]:
    return [f"{number}.jpg" for number in range(count)]


def passes(tower: nn.Module) -> list[int]:
    """Grows by the size of each batch that goes through the tower."""
    sizes: list[int] = []
    tower.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    return sizes


def shards() -> list[Path]:
    return sorted(paths.CACHE.glob("coefficients-*/shard-*.safetensors"))


def joined(store: DecomposedDataset) -> dict[str, Tensor]:
    parts = list(store)
    return {name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])}


# --- one process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 3])
def test_shards_hold_the_coefficients_of_all_images_in_order(workers: int) -> None:
    tower, images = build(), draw(11)
    expected = coefficients(tower, images)
    store = DecomposedDataset(tower, images, shard_size=4, batch_size=3, workers=workers)
    assert store.ranges == [range(0, 4), range(4, 8), range(8, 11)] and len(store) == 3
    state = torch.get_rng_state()
    found = joined(store)
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal_up_to_rounding(found, vars(expected))
    assert len(shards()) == 3 and not list(paths.CACHE.rglob("*.part"))
    assert torch.equal(store[-1].heads, store[2].heads) and len(store[-1]) == 3


def test_a_killed_run_goes_on_where_it_was_and_nothing_is_done_twice() -> None:
    tower = build()
    sizes, images = passes(tower), Images(10)
    DecomposedDataset(tower, images, ids=names(10), shard_size=4)[1]
    assert sum(sizes) == 4
    complete = list(DecomposedDataset(tower, images, ids=names(10), shard_size=4))
    assert sum(sizes) == 10
    images.loaded = []
    again = list(DecomposedDataset(tower, images, ids=names(10), shard_size=4, batch_size=2))
    assert sum(sizes) == 10 and images.loaded == []
    assert all(torch.equal(a.heads, b.heads) for a, b in zip(complete, again, strict=True))


def test_a_store_goes_by_the_content_of_images_and_tower_and_what_is_said_of_them() -> None:
    tower, images = build(), draw(4)
    sizes = passes(tower)
    first = DecomposedDataset(tower, images, shard_size=4)[0]
    assert torch.equal(DecomposedDataset(tower, images.clone(), shard_size=4, batch_size=3)[0].heads, first.heads)
    assert sum(sizes) == 4
    changed = images.clone()
    changed[2, 0, 0, 0] += 1
    assert not torch.equal(DecomposedDataset(tower, changed, shard_size=4)[0].heads, first.heads)
    with torch.no_grad():
        tower.transformer.resblocks[0].attn.out_proj.bias[0] += 1
    assert not torch.equal(DecomposedDataset(tower, images, shard_size=4)[0].mlps, first.mlps)
    # The same weights, differently cut into heads: neither the weights nor the modules' repr say so.
    fewer = build(heads=2)
    fewer.load_state_dict(tower.state_dict())
    assert DecomposedDataset(fewer, images, shard_size=4)[0].heads.shape[2] == 2
    keys = [
        DecomposedDataset(tower, images, **how).key
        for how in ({}, {"ids": names(4)}, {"about": {"revision": "b"}}, {"dtype": torch.float16}, {"shard_size": 2})
    ]
    assert len(set(keys)) == 5


def test_the_header_of_a_shard_says_what_it_is_of(tmp_path: Path) -> None:
    about = {"backbone": "ViT-B-16", "preprocessing": "24 pixels, bicubic", "revision": "abc"}
    store = DecomposedDataset(build(), draw(5), ids=names(5), about=about, dtype=torch.float16, folder=tmp_path / "new",
                              shard_size=3)  # fmt: skip
    assert fill([store]) == 2
    with safe_open(tmp_path / "new" / "shard-00001.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["header"])["values"]["header"]
        kinds = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (no dictionary)
    assert header == about | {"ids": ["3.jpg", "4.jpg"], "dtype": "torch.float16", "key": store.key}
    assert {name for name, kind in kinds.items() if kind == torch.float16} == {"heads", "mlps"}


def test_a_damaged_shard_alone_is_computed_anew_with_a_warning() -> None:
    tower = build()
    store = DecomposedDataset(tower, draw(4), shard_size=2)
    before = joined(store)
    sizes, whole = passes(tower), shards()[0].read_bytes()
    damages = (whole[: len(whole) // 2], whole[:-8] + b"\1" * 8, b"", shards()[0].read_bytes()[:-3] + b"\7\7\7")
    for number, damage in enumerate(damages, start=1):
        shards()[0].write_bytes(damage)
        with pytest.warns(UserWarning, match=r"shard-00000\.safetensors is damaged"):
            after = joined(store) if number % 2 else fill([store])
        assert sum(sizes) == 2 * number
        if number % 2:
            assert all(torch.equal(after[name], values) for name, values in before.items())
    assert torch.equal(store[0].heads, before["heads"][:2])  # read again without a warning


def test_a_folder_holds_one_store(tmp_path: Path) -> None:
    DecomposedDataset(build(), draw(4), folder=tmp_path / "one")[0]
    before = (tmp_path / "one" / "shard-00000.safetensors").read_bytes()
    other = DecomposedDataset(build(1), draw(4), folder=tmp_path / "one")
    for use in (lambda: other[0], lambda: fill([other])):
        with pytest.raises(ValueError, match=r"one holds another store .*: name another folder"):
            use()
    assert (tmp_path / "one" / "shard-00000.safetensors").read_bytes() == before


def test_a_store_counts_for_the_cache_and_a_full_disk_says_how_much_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    store, old = DecomposedDataset(build(), draw(10), shard_size=4), paths.CACHE / "coefficients-of-other-code"
    monkeypatch.setenv("XAIKIT_CACHE_GB", "0")
    old.mkdir(parents=True)
    (old / "shard-00000.safetensors").write_bytes(b"was asked for in 1970")
    os.utime(old / "shard-00000.safetensors", (0, 0))
    with pytest.warns(UserWarning, match=f"more than the 0 GB of XAIKIT_CACHE_GB, .*{store.folder.name}; give it more"):
        fill([store])
    assert not old.exists() and all(store.has(shard) for shard in range(3))

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.path(1).unlink()
    monkeypatch.setattr(cache, "save_file", refuse)
    with pytest.raises(
        OSError, match=r"Shard 1 of 3 cannot be kept in .*No space.*: it takes \S+ GB in all; make room"
    ):
        fill([store])


def test_images_are_read_a_few_batches_ahead_and_no_more() -> None:
    tower, images, waiting = build(), Images(40), []
    done = passes(tower)
    tower.register_forward_hook(lambda *_: waiting.append(len(images.loaded) - sum(done)))
    DecomposedDataset(tower, images, ids=names(40), shard_size=40, batch_size=4, workers=2)[0]
    assert 0 <= max(waiting) <= module.BATCHES_AHEAD * 4 and sorted(images.loaded) == list(range(40))


def test_bad_data_sets_are_said_in_a_sentence_and_leave_nothing() -> None:
    tower, images = build(), draw(4)
    with pytest.raises(ValueError, match="no image"):
        DecomposedDataset(tower, images[:0])
    with pytest.raises(ValueError, match="3 ids for 4 images"):
        DecomposedDataset(tower, images, ids=["a", "b", "c"])
    with pytest.raises(ValueError, match="shard_size of DecomposedDataset is 0"):
        DecomposedDataset(tower, images, shard_size=0)
    with pytest.raises(ValueError, match=r"kept in torch\.int8"):
        DecomposedDataset(tower, images, dtype=torch.int8)
    with pytest.raises(ValueError, match="image alone"):
        DecomposedDataset(tower, [(image, 1) for image in images])
    with pytest.raises(ValueError, match="image alone"):
        DecomposedDataset(tower, [(image, 1) for image in images], ids=names(4))[0]
    with pytest.raises(ValueError, match="prepare all to one size"):
        DecomposedDataset(tower, [*images[:3], images[3, :, :9]], ids=names(4))[0]
    with pytest.raises(ValueError, match="NaN"):
        DecomposedDataset(tower, torch.full_like(images, torch.nan))[0]
    store = DecomposedDataset(tower, images)
    with pytest.raises(ValueError, match="Shard 0 is of 4 images, and the coefficients are of 2"):
        store.write(0, coefficients(tower, images[:2]))
    with pytest.raises(ValueError, match="Process rank 2 is none of 2"):
        fill([store], rank=2, world_size=2)
    for others in ([], [store, DecomposedDataset(tower, images[:3])], [store, DecomposedDataset(tower, draw(4) + 1)]):
        with pytest.raises(ValueError, match="not of the same images"):
            fill(others)
    assert not shards()


# --- float16 ------------------------------------------------------------------------------------------------------


def test_what_float16_does_to_the_coefficients_is_bounded() -> None:
    tower, images = build(), draw(40)
    exact, store = coefficients(tower, images), DecomposedDataset(tower, images, dtype=torch.float16)
    found = store[0]
    for name, values in vars(exact).items():
        kept = getattr(found, name)
        assert kept.dtype == torch.float32 and kept.shape == values.shape
        if not values.numel():
            continue
        bound = 2**-11 * values.abs() + 2**-25 if name in ("heads", "mlps") else 2e-5 * values.abs().max()
        assert ((kept - values).abs() <= bound).all(), name
    # Of a contribution: 2^-11 of its length at the most; what is not replaced by a mean is not touched at all.
    readout = Readout.of(tower)
    there, here = exact.contributions(readout), found.contributions(readout)
    assert ((here.attention - there.attention).norm(dim=-1) <= 2**-10 * there.attention.norm(dim=-1) + 1e-6).all()
    assert (here.embedding - there.embedding).abs().max() < 1e-6
    means = mean_contributions([here]), mean_contributions([there])
    assert (means[0].attention - means[1].attention).abs().max() < 2e-4
    halves = sum(path.stat().st_size for path in shards())
    list(DecomposedDataset(tower, images))
    assert halves < 0.65 * (sum(path.stat().st_size for path in shards()) - halves)


def test_what_float16_cannot_hold_is_kept_as_it_is() -> None:
    tower = build()
    with torch.no_grad():
        tower.transformer.resblocks[1].mlp.c_proj.bias.mul_(1e8)
    found = DecomposedDataset(tower, draw(3), dtype=torch.float16)[0]
    expected = coefficients(tower, draw(3))
    assert expected.mlps.abs().max() > 65_504
    assert (found.mlps - expected.mlps).abs().max() <= 1e-5 * expected.mlps.abs().max()


def test_heads_are_named_from_float16_as_from_float32() -> None:
    """What float16 adds lies in the directions that a head has anyway, so that only near ties may turn."""
    tower, images = build(layers=2, output_dim=48), draw(400)
    readout, pool = Readout.of(tower), torch.randn(300, 48, generator=generator(0, "texts"))
    pool = nn.functional.normalize(pool, dim=1)
    spans = []
    for dtype in (None, torch.float16):
        store = DecomposedDataset(tower, images, dtype=dtype, shard_size=100)
        moments = ContributionMoments(readout.heads.flatten(0, 1))
        for shard in store:
            moments.add(shard.coordinates().flatten(1, 2))
        spans.append(textspan(moments, pool, 8))
    exact, rounded = spans
    assert (exact.picks[:, :4] == rounded.picks[:, :4]).all()
    assert (exact.picks == rounded.picks).double().mean() > 0.97
    torch.testing.assert_close(exact.explained, rounded.explained, rtol=0, atol=1e-4)


# --- several processes --------------------------------------------------------------------------------------------

COUNT = 24


def store_in(folder: Path, log: Path, seconds: float, seed: int = 0) -> DecomposedDataset:
    images = Images(COUNT, log, seconds)
    return DecomposedDataset(build(seed), images, ids=names(COUNT), folder=folder / str(seed), shard_size=3)


def work(folder: Path, log: Path, rank: int, world_size: int, seconds: float) -> None:
    """What a process of the tests does, for two towers at once."""
    torch.set_num_threads(1)
    fill([store_in(folder, log, seconds, seed) for seed in (0, 1)], rank=rank, world_size=world_size)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def start(folder: Path, log: Path, world_size: int, seconds: float) -> list[multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["xaikit.decomposition.store"])  # imported once for all of them
    processes = [
        context.Process(target=work, args=(folder, log, rank, world_size, seconds)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


@pytest.fixture
def expected(tmp_path: Path, one_thread: None) -> list[dict[str, Tensor]]:
    return [joined(store_in(tmp_path / "alone", tmp_path / "alone.log", 0, seed)) for seed in (0, 1)]


def check(folder: Path, expected: list[dict[str, Tensor]]) -> None:
    """What lies in a folder is complete, of each tower, and not computed here."""
    for seed, values in enumerate(expected):
        store = store_in(folder, folder / "unread.log", 0, seed)
        assert all(store.has(number) for number in range(len(store)))
        assert_equal_up_to_rounding(joined(store), values)
    assert not (folder / "unread.log").exists()


@pytest.mark.slow
def test_four_processes_load_each_image_once_for_both_towers(tmp_path: Path, expected: list) -> None:
    folder, log = tmp_path / "four", tmp_path / "four.log"
    processes = start(folder, log, 4, 0.01)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(map(int, log.read_text().split())) == list(range(COUNT))
    check(folder, expected)


@pytest.mark.slow
def test_what_killed_processes_held_is_taken_up_by_those_that_are_left(tmp_path: Path, expected: list) -> None:
    folder, log = tmp_path / "killed", tmp_path / "killed.log"
    processes = start(folder, log, 4, 0.1)
    wait_for(lambda: log.exists() and len(log.read_text().split()) >= 6)
    for process in processes[:2]:
        process.kill()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [-9, -9, 0, 0]
    check(folder, expected)
    # Each image once, but for the shards that the killed ones had begun.
    loaded = list(map(int, log.read_text().split()))
    assert set(loaded) == set(range(COUNT)) and len(loaded) <= COUNT + 2 * 3


@pytest.mark.slow
def test_a_run_that_was_killed_whole_goes_on_with_any_number_of_processes(tmp_path: Path, expected: list) -> None:
    folder, log = tmp_path / "all", tmp_path / "all.log"
    processes = start(folder, log, 2, 0.1)
    wait_for(lambda: len(list(folder.glob("1/shard-*.safetensors"))) >= 2)
    for process in processes:
        process.kill()
        process.join()
    finished = {path: path.stat().st_ino for path in folder.glob("1/shard-*.safetensors")}
    assert 2 <= len(finished) < 8
    for rank in reversed(range(3)):
        work(folder, log, rank, 3, 0)
    assert {path: path.stat().st_ino for path in finished} == finished  # they were read, not written
    check(folder, expected)


def test_an_error_leaves_what_was_finished_and_nothing_half_written(tmp_path: Path, expected: list) -> None:
    class Broken(Images):
        def __getitem__(self, index: int) -> Tensor:
            if index == 8:
                raise ValueError("8.jpg is no image that can be read")
            return super().__getitem__(index)

    folder = tmp_path / "broken"
    stores = [store_in(folder, tmp_path / "broken.log", 0, seed) for seed in (0, 1)]
    for store in stores:
        store.images, store.workers = Broken(COUNT), 2
    with pytest.raises(ValueError, match=r"8\.jpg is no image"):
        fill(stores)
    written = {path.name for path in folder.rglob("*") if path.suffix != ".lock" and path.is_file()}
    assert written == {"shard-00000.safetensors", "shard-00001.safetensors"}
    assert fill([store_in(folder, tmp_path / "broken.log", 0, seed) for seed in (0, 1)]) == 6
    check(folder, expected)


def test_two_at_once_that_read_share_the_work() -> None:
    towers = [build(), build()]
    sizes = [passes(tower) for tower in towers]
    found: dict[int, list[Coefficients]] = {}

    def read(number: int) -> None:
        found[number] = list(DecomposedDataset(towers[number], draw(12), shard_size=3))

    threads = [threading.Thread(target=read, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(sum, sizes)) == 12
    assert all(torch.equal(a.heads, b.heads) for a, b in zip(found[0], found[1], strict=True))
    assert os.path.commonpath(shards()).endswith(shards()[0].parent.name)  # one folder
