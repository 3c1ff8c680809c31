"""Fill the stores that notebook 04 reads, on as many processes, GPUs and machines as there are.

    torchrun --nproc-per-node 4 -m xaikit extract --profile paper
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m xaikit extract

The machines share the folder of the cache (XAIKIT_CACHE), and nothing else: each process takes shards that no other
one has begun, and what a killed one finished is not computed again (`decomposition.store.fill`). Where they differ in
threads, or work is taken up on another CPU, shards agree within rounding only: `xaikit.storage.cache` says by how much.
"""

import os
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from xaikit.companion import profiles
from xaikit.companion.profiles import Settings
from xaikit.decomposition.store import fill
from xaikit.studies import clip_decomposition as study
from xaikit.studies import clip_pictures as pictures

SECTION = "04_clip_decomposition"
DATA: dict[str, Callable[[Settings, int, str], pictures.Labelled]] = {
    "classification": pictures.classification,
    "waterbirds": pictures.waterbirds,
}


def extract(
    profile: str = "paper",
    *,
    data: Sequence[str] = (),
    model: Sequence[str] = (),
    seed: int = 0,
    batch: int | None = None,
    workers: int | None = None,
) -> None:
    """Decompose what notebook 04 reads under a profile, or some of its data sets by some of its models.

    Every image is loaded once, whatever the number of models. torchrun says in RANK and WORLD_SIZE which share is this
    process's, and in LOCAL_RANK on which GPU, where there are any; more processes than GPUs share them. `batch` is of
    images in a forward pass, `workers` of threads that read, in place of the profile's.
    Raises ValueError for an unknown profile, data set or model, and what the readers and `fill` raise.
    """
    profiles.check(profile)
    rank, world_size, local_rank = (
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if gpus := torch.cuda.device_count():
        torch.cuda.set_device(local_rank % gpus)
    cfg = profiles.load(profile, SECTION, seed)
    profiles.prepare(seed)  # as in the notebook: deterministic, and no less than float32
    if workers is not None:
        cfg = Settings(cfg.as_dict() | {"workers": workers}, f"profile {profile!r}, section {SECTION!r}")
    _check("data set", data, DATA)
    _check("model", model, [study.name_of_model(each) for each in study.model_settings(cfg)])
    _rehearse()
    chosen = study.backbones(cfg, model)
    for name in data or DATA:
        for split in pictures.SPLITS:
            images = DATA[name](cfg, seed, split)
            stores = [pictures.decomposed(cfg, each, images).store for each in chosen]
            for store in stores:
                store.batch_size = batch or store.batch_size
            made = fill(stores, rank=rank, world_size=world_size)
            where = ", ".join(str(store.folder) for store in stores)
            print(
                f"{images.what}: process {rank} of {world_size} computed {made} of {len(stores[0])} shards in {where}"
            )


def _check(what: str, asked: Sequence[str], known: Sequence[str] | dict) -> None:
    if unknown := [each for each in asked if each not in known]:
        raise ValueError(f"There is no {what} {unknown[0]!r} in this profile: choose from {', '.join(known)}.")


def _rehearse() -> None:
    """Do what the kernels of a rehearsal do first: see `companion.rehearsal`."""
    folder = Path(os.environ.get("IPYTHONDIR", "")) / "profile_default" / "startup"
    if "stand-ins" in os.environ.get("IPYTHONDIR", ""):
        for script in sorted(folder.glob("*.py")):
            runpy.run_path(str(script))
