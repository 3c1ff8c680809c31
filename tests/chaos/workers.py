"""What `chaos.py` kills: an extraction, a training and a download, each in small, slow enough to be hit."""

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from xaikit.companion import download
from xaikit.storage.hashing import feed


def extract(folder: Path) -> None:
    """The decomposition of 96 drawings, in 24 shards."""
    import torch
    from open_clip.transformer import VisionTransformer
    from torch import Tensor

    from xaikit.decomposition.store import DecomposedDataset, fill

    class Drawings:
        def __len__(self) -> int:
            return 96

        def __getitem__(self, index: int) -> Tensor:
            time.sleep(0.0125)
            return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index))

    torch.manual_seed(0)
    tower = VisionTransformer(16, 8, 16, 1, 2, 2.0, output_dim=8).eval()
    ids = [f"{number:03d}" for number in range(96)]
    store = DecomposedDataset(tower, Drawings(), ids=ids, folder=folder, shard_size=4, batch_size=4)
    begin()
    fill([store])
    parts = list(store)
    say({name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def train(folder: Path) -> None:
    """A translator of two epochs of thirty steps, with a checkpoint after every other one."""
    import torch
    from accelerate import Accelerator
    from torch import Tensor
    from transformers import BlipTextConfig, BlipTextLMHeadModel

    from xaikit.texplain.training import InMemory, Recipe, train
    from xaikit.texplain.translator import Translator

    torch.manual_seed(0)
    config = BlipTextConfig(
        vocab_size=9, hidden_size=16, encoder_hidden_size=12, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=12, bos_token_id=1, sep_token_id=2, pad_token_id=0,
    )  # fmt: skip
    decoder, translator = BlipTextLMHeadModel(config).eval().requires_grad_(False), Translator(3, 8, 12)
    draw = torch.Generator().manual_seed(2)
    features = torch.randn(60, 3, 8, generator=draw)
    sentences = torch.tensor([[[1, 3 + i % 6, 2]] for i in range(60)])
    pairs = InMemory(features, sentences, 2, seed=3)

    def slowly(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in pairs(epoch):
            time.sleep(0.05)
            yield batch

    begin()
    train(
        translator, decoder, slowly, Recipe(epochs=2, batch=2, learning_rate=0.01), prompt=1, pad=0, steps_an_epoch=30,
        seed=3, checkpoint=folder / "checkpoint.safetensors", checkpoint_steps=2, accelerator=Accelerator(cpu=True),
    )  # fmt: skip
    say(translator.state_dict())


def fetch(folder: Path, url: str) -> None:
    """An archive of which nobody says the checksum."""
    begin()
    print(download.fetch(download.File("data.bin", urls=[url], unpack="birds"), folder))
    content = {path.name: path.read_bytes() for path in sorted((folder / "birds").iterdir())}
    print(hashlib.sha256(repr(content).encode()).hexdigest(), json.loads((folder / "checksums.json").read_text()))


def begin() -> None:
    """Say that all is imported, and the work begins."""
    print("begun", flush=True)


def say(tensors: dict) -> None:
    digest = hashlib.sha256()
    feed(digest, tensors)
    print(digest.hexdigest(), flush=True)


if __name__ == "__main__":
    what, where, *others = sys.argv[1:]
    {"extract": extract, "train": train, "fetch": fetch}[what](Path(where), *others)
