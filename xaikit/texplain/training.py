"""Training TExplain's translator, section 2.2: image-caption pairs, the language model's loss, any number of processes.

The paper has two stages (section 3, `PAPER`): 20 epochs on pairs from the web, then 5 on COCO, 512 images a step. It
names neither optimiser nor learning rate: AdamW, its rates, a warm-up and a cosine are this project's choice.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.arguments import Count, Device, Natural, Seed, public
from xaikit.storage import cache, hashing
from xaikit.storage.arithmetic import check_precision, training_precision
from xaikit.storage.seeding import generator, seed_for
from xaikit.texplain.translator import Translator, sentence_loss

# What conditions the decoder, or the images that an encoder makes it from, and a sentence for each.
Batch = tuple[Tensor, Int64[Tensor, "batch length"]]


@dataclass(frozen=True)
class Recipe:
    """AdamW for so many epochs of steps with `batch` images each, in all processes together.

    The learning rate rises in a line for the first `warm_up` of all steps, a fraction, and falls in half a cosine.
    Of a process's share of a batch `at_once` images, where given, go through the decoder at a time, which takes nearly
    all of the memory. The step is the same but for rounding: the translator, whose batch norms look at the batch, has
    all of it at once.
    Raises ValueError for numbers that make no training.
    """

    epochs: int
    batch: int = 512
    learning_rate: float | int = 1e-3
    weight_decay: float | int = 0.05
    warm_up: float | int = 0.05
    precision: str = "float32"  # or "bfloat16", on a GPU that has it
    at_once: int | None = None

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.epochs < 1 or self.batch < 2 or self.learning_rate <= 0 or not 0 <= self.warm_up < 1:
            raise ValueError(f"{self} makes no training: give epochs, a batch of two, a rate and a warm-up below 1.")
        if self.at_once is not None and self.at_once < 1:
            raise ValueError(f"There are {self.at_once} images at once: give at least 1, or leave it out.")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step out of `steps`, counted from zero."""
        rising = self.warm_up * steps
        if step < rising:
            return self.learning_rate * (step + 1) / (rising + 1)
        return self.learning_rate * (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


# Section 3: all pairs but COCO's, then COCO.
PAPER = {
    "web": Recipe(epochs=20, precision="bfloat16"),
    "coco": Recipe(epochs=5, learning_rate=1e-4, precision="bfloat16"),
}


@public
@dataclass(frozen=True, eq=False)
class InMemory:
    """Batches of features that were computed once, for `train`: called with an epoch, one of its length in batches.

    Each epoch has a new order, and of each image one of its captions by chance; batches are of nearly one size. Of
    each batch a process gets its share. Raises ValueError where features and sentences do not fit each other.
    """

    features: Float[Tensor, "images tokens width"]
    sentences: Int64[Tensor, "rows captions length"]
    batch: Count
    seed: Seed
    process: Natural = 0
    processes: Count = 1

    def __post_init__(self) -> None:
        images, told = len(self.features), len(self.sentences)
        if images < 2 or images != told or not self.sentences.shape[1] or self.batch < 2:
            raise ValueError(
                f"There are captions of {told} images for the features of {images}, in batches of {self.batch}: give "
                "both of at least two, at least one caption each, and batches of two."
            )

        if self.process >= self.processes:
            raise ValueError(f"There is no process {self.process} of {self.processes}: count them from 0.")

    def __len__(self) -> int:
        # A batch of one image would have no statistics.
        return min(-(-len(self.features) // self.batch), len(self.features) // 2)

    def __call__(self, epoch: Natural) -> Iterator[Batch]:
        """This process's share of each batch of an epoch: features, and a sentence of each."""
        draw = generator(self.seed, "translator", "batches", epoch)
        order = torch.randperm(len(self.features), generator=draw)
        chosen = torch.randint(self.sentences.shape[1], (len(order),), generator=draw)
        for rows in order.tensor_split(len(self)):
            own = rows[self.process :: self.processes]
            yield self.features[own].float(), self.sentences[own, chosen[own]]


@public
def train(
    translator: Translator,
    decoder: nn.Module,
    batches: Callable[[int], Iterable[Batch]],
    recipe: Recipe,
    *,
    prompt: Count,
    pad: Natural,
    steps_an_epoch: Count,
    seed: Seed,
    encoder: nn.Module | None = None,
    checkpoint: Path | None = None,
    checkpoint_steps: Count = 500,
    accelerator: Accelerator | None = None,
    device: Device | None = None,
    after_epoch: Callable[[int], bool] | None = None,
) -> list[float]:
    """Train the translator, in place, by the loss of captions under the frozen `decoder`; the result is its loss curve.

    `batches(epoch)` gives at least `steps_an_epoch` times this process's share of a batch: features and sentences,
    or, with an `encoder` such as `Features`, images and sentences. `prompt` and `pad` are those of `sentence_loss`.
    The curve has the loss of each step, in nats a token of all processes. Several processes (`accelerate launch`)
    train as one would with all their shares. The modules are moved to `device`, by default the accelerator's, which is
    that of the first one that the process made: a GPU if there is one. The translator is left in evaluation mode.
    `after_epoch` is called with the number of epochs that are done, and ends the training by True: to look at held-out
    pairs (`studies.texplain` does), on which the training has no business.
    A run that was killed goes on from its `checkpoint`, written every `checkpoint_steps` and at the end, and ends with
    the weights that it would have had: torch's own random numbers, too, start anew from `seed` at each epoch. The file
    knows by which recipe, from which weights and for which decoder it was made, but not the data.
    Raises ValueError for a checkpoint that is damaged or of another training, epochs that end early, a loss that is not
    finite, and what `Translator` and `sentence_loss` refuse. Source: section 2.2.
    """
    accelerator = Accelerator() if accelerator is None else accelerator
    device, steps = torch.device(device or accelerator.device), recipe.epochs * steps_an_epoch
    if steps_an_epoch < 1:
        raise ValueError("An epoch has no step: give more pairs, or a smaller batch.")
    for module in (translator, decoder, encoder):
        if module is not None:
            module.to(device)
    translator.train().requires_grad_(True)
    # Accelerate's own wrapper would stay on the translator, and few gradients are as well averaged by hand, below.
    for tensor in translator.state_dict().values():
        tensor.copy_(broadcast(tensor))
    job = {}
    if checkpoint is not None:
        job = {
            "recipe": asdict(recipe), "number of steps an epoch": steps_an_epoch, "seed": seed,
            "prompt or padding": [prompt, pad], "translator to start from": _digest(translator),
            "decoder": _digest(decoder), "encoder": encoder and _digest(encoder),
        }  # fmt: skip
    optimiser = torch.optim.AdamW(translator.parameters(), weight_decay=recipe.weight_decay)
    curve: list[float] = []
    if checkpoint is not None and checkpoint.exists():
        curve = _resume(checkpoint, job, translator, optimiser)

    shares = _remaining(batches, recipe.epochs, steps_an_epoch, len(curve), (seed, accelerator.process_index))
    main = accelerator.is_main_process
    for given, sentences in tqdm(
        shares,
        "training the translator",
        steps,
        initial=len(curve),
        mininterval=5,
        **({} if main else {"disable": True}),
    ):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(len(curve), steps)
        longest = int((sentences != pad).any(0).cumsum(0).argmax()) + 1  # what is padding in all of them costs time
        sentences = sentences[:, :longest]
        given, sentences = given.to(device, non_blocking=True), sentences.to(device, non_blocking=True)
        with training_precision(str(device), recipe.precision):
            if encoder is not None:
                with torch.no_grad():
                    given = encoder(given).float()
            conditions = translator(given)
        # The mean is over the tokens of all processes, of which this one may have more or fewer than its share.
        words = (sentences[:, prompt:] != pad).sum(1)
        mean = accelerator.reduce(words.sum().float(), "mean")
        # The decoder looks at each image alone, so its gradients may be made part by part, and then go on together.
        rows = recipe.at_once or len(conditions)
        parts, losses = conditions.detach().split(rows), []
        for part, told, counted in zip(parts, sentences.split(rows), words.split(rows), strict=True):
            with training_precision(str(device), recipe.precision):
                loss = sentence_loss(decoder, part.requires_grad_(), told, prompt=prompt, pad=pad)
            losses.append(loss * counted.sum().float() / mean)
            losses[-1].backward()
            losses[-1] = losses[-1].detach()
        curve.append(accelerator.reduce(sum(losses), "mean").item())
        if not math.isfinite(curve[-1]):
            raise ValueError(f"The loss is {curve[-1]} in step {len(curve)}; lower the learning rate.")
        optimiser.zero_grad()
        conditions.backward(torch.cat([part.grad for part in parts]))
        for parameter in translator.parameters():
            parameter.grad = accelerator.reduce(parameter.grad, "mean")
        optimiser.step()
        if checkpoint is not None and main and (len(curve) == steps or len(curve) % checkpoint_steps == 0):
            _save(checkpoint, job, translator, optimiser, curve)
        if after_epoch is not None and len(curve) % steps_an_epoch == 0:
            if after_epoch(len(curve) // steps_an_epoch):
                break
            translator.train()  # it may have been looked at in evaluation mode
    translator.eval()
    return curve


@public
def write_translator(path: Path, translator: Translator) -> None:
    """Write a translator's weights and arguments to a safetensors file, for `read_translator`."""
    cache.write(path, "a translator", {"arguments": translator.arguments, **translator.state_dict()})


@public
def read_translator(path: Path, device: Device = "cpu") -> Translator:
    """The translator of a file, frozen and in evaluation mode. Raises ValueError where there is none."""
    content = _read(path)
    try:
        translator = Translator(**content.pop("arguments"))
        translator.load_state_dict(content)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} holds no translator: give a file of write_translator.") from error
    return translator.to(device).eval().requires_grad_(False)


def _remaining(
    batches: Callable[[int], Iterable[Batch]], epochs: int, steps: int, start: int, seed: tuple[int, int]
) -> Iterator[Batch]:
    """The batches of each step from `start` on; those before it, in its epoch, are drawn again and passed over."""
    for epoch in range(start // steps, epochs):
        torch.manual_seed(seed_for(seed[0], "translator", "epoch", epoch, seed[1]))
        given = iter(batches(epoch))
        for step in range(steps):
            if (batch := next(given, None)) is None:
                raise ValueError(f"Epoch {epoch + 1} ended after {step} of its {steps} batches: say how many it has.")
            if epoch * steps + step >= start:
                yield batch


def _digest(module: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    hashing.feed(digest, module.state_dict())
    return digest.hexdigest()


def _save(path: Path, job: dict, translator: Translator, optimiser: torch.optim.Optimizer, curve: list[float]) -> None:
    weights = {f"translator.{name}": tensor for name, tensor in translator.state_dict().items()}
    states = {
        f"optimiser.{index}.{name}": tensor
        for index, state in optimiser.state_dict()["state"].items()
        for name, tensor in state.items()
    }
    losses = {"curve": torch.tensor(curve, dtype=torch.float64)}
    cache.keep(path, "the training so far", {"job": job, **weights, **states, **losses})


def _resume(path: Path, job: dict, translator: Translator, optimiser: torch.optim.Optimizer) -> list[float]:
    """Give translator and optimiser what a checkpoint holds; the result is the curve so far."""
    content = _read(path)
    saved = content.pop("job", {})
    for key, value in job.items():
        if saved.get(key) != value:
            raise ValueError(f"{path} is of a training with another {key}: delete it, or give another path.")
    curve, states = content.pop("curve"), {}
    for name, tensor in content.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".")
            states.setdefault(int(index), {})[key] = tensor
    prefix = "translator."
    translator.load_state_dict({k.removeprefix(prefix): v for k, v in content.items() if k.startswith(prefix)})
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    return curve.tolist()


def _read(path: Path) -> dict:
    try:
        return cache.read(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or not of this package ({error}): delete it to start anew.") from error
