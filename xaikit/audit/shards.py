"""An audit of more pictures than memory holds: part by part, on as many processes and machines as there are.

Pictures of a shard take what is exchanged from each other, so that no shard has to know of another one. What changes
turn is then counted over all of them, and p is of all. Each shard is a file, in a folder that the processes share: each
takes shards that no other one has begun, and what a killed one finished is not computed again
(`decomposition.store.fill` does the same).
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm import tqdm

from xaikit.arguments import Count, Natural
from xaikit.audit.auditing import answered, confidence, turned
from xaikit.audit.load import Loaded
from xaikit.audit.parts import Parts
from xaikit.audit.photographs import Pictures
from xaikit.audit.questions import Concept, Effect, Seen, joined

SAID = 10  # notes of single shards on the page


def counted_shard(
    classifier: Loaded, pictures: Pictures, concepts: Sequence[Concept], *, device: str, seed: int, quick: bool,
    with_logits: bool,
) -> dict[str, Any]:  # fmt: skip
    """What is known of a shard's pictures, how they are answered, and what changes turn of that; no pixels."""
    logits = answered(classifier, pictures, device)
    effects, removed = turned(
        classifier, pictures, concepts, logits, device=device, seed=seed, quick=quick, fewest=2
    )  # fmt: skip
    return {
        "ids": list(pictures.ids), "labels": pictures.labels, "groups": pictures.groups.to_dict("list"),
        "captions": list(pictures.captions), "notes": list(pictures.notes), "answers": logits.argmax(1).numpy(),
        "confidence": confidence(logits), "effects": effects, "removals": removed,
        "logits": logits if with_logits else None,
    }  # fmt: skip


def fill(
    parts: Parts, names: Sequence[str], make: Callable[[int], Any], *, rank: Natural = 0, world_size: Count = 1
) -> int:
    """Make the parts that are not there; how many this process made. All are there when it returns.

    Of `world_size` processes each begins with its own, `rank` first, and then takes what the others have not begun.
    """
    own = range(rank, len(names), world_size)
    others = [number for number in reversed(range(len(names))) if number not in own]
    turns = deque((number, False) for number in [*own, *others])
    made = 0
    with tqdm(total=len(names), desc="shards", unit="shard", disable=None) as bar:
        while turns:
            number, wait = turns.popleft()
            path = parts.path(names[number])
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(path.with_suffix(".lock"), timeout=-1 if wait else 0):
                    if not path.exists():
                        parts.keep(names[number], lambda number=number: make(number))
                        made += 1
            except Timeout:  # another process is at it: looked at again at the end, in case that it is killed
                turns.append((number, True))
                continue
            bar.update()
    return made


@dataclass(frozen=True, eq=False)
class Together:
    """Shards as one: pictures whose pixels are those of the first, their answers, and what changes turn."""

    pictures: Pictures
    logits: Float[Tensor, "first classes"]
    answers: Int64[np.ndarray, " pictures"]
    confidence: Float[np.ndarray, " pictures"]
    effects: list[Effect]
    removals: list[Effect]


def together(shards: Sequence[dict[str, Any]], first: Seen) -> Together:
    """The shards' pictures one after the other; `first` are the pixels of the first."""
    sizes = [len(each["ids"]) for each in shards]
    groups = pd.concat([pd.DataFrame(each["groups"]) for each in shards], ignore_index=True)
    answers, sure, labels = (
        np.concatenate([each[name] for each in shards]) for name in ("answers", "confidence", "labels")
    )
    pictures = Pictures(
        first, tuple(each for shard in shards for each in shard["ids"]), labels, groups,
        tuple(each for shard in shards for each in shard["captions"]), _notes([each["notes"] for each in shards]),
    )  # fmt: skip
    effects, removed = (joined([each[name] for each in shards], sizes) for name in ("effects", "removals"))
    return Together(pictures, torch.as_tensor(shards[0]["logits"]), answers, sure, effects, removed)


def _notes(of_shards: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What is said of all shards, and then of some what is said of them alone."""
    count = Counter(note for notes in of_shards for note in {*notes})
    everywhere = [note for note in of_shards[0] if count[note] == len(of_shards)]
    alone = [f"Shard {number}: {note}" for number, notes in enumerate(of_shards) for note in notes
             if count[note] < len(of_shards)]  # fmt: skip
    more = [f"And {len(alone) - SAID} more such notes of other shards."] if len(alone) > SAID else []
    said = (
        f"The pictures were asked in {len(of_shards)} shards: what is exchanged comes from the same shard. Maps, "
        "mends, what words say and what goes with the logits are of the first one."
    )
    return (said, *everywhere, *alone[:SAID], *more)
