"""Train the mini CLIP-ViT by `clip_vit_mini.train`, but so that it can be killed and go on: checkpoints of 500 steps.

trainboth.py TEACHER_STEPS STEPS [--stop-after N]. Logs to build/several/log what it tells apart each 1,000 steps.
"""
import inspect, json, os, sys, time
from pathlib import Path

import torch
from torch import nn

from xaikit.models import cards, clip_vit_mini as m
from xaikit.models.clip import load_clip
from xaikit.storage.seeding import generator
from xaikit.studies import train_models as tm

HERE = Path(__file__).parent
LAST = int(os.environ.get("LAST", 0))  # for tests: stop after so many steps of each stage
FOLDER = HERE / m.NAME
m.TEACHER_STEPS, m.STEPS = map(int, sys.argv[1:3])


def log(text):
    with open(HERE / "log", "a") as file:
        print(time.strftime("%H:%M:%S"), text, file=file)


examples = m._examples


def cached():
    file = HERE / "examples.pt"
    if not file.exists():
        torch.save(examples(), HERE / "examples.part")
        (HERE / "examples.part").rename(file)
    return torch.load(file, weights_only=False)


class Eyes:
    """What `told_apart` needs of a Clip, made of parts that are being trained."""

    def __init__(self, see, model):
        self.image_encoder = lambda images: torch.nn.functional.normalize(see(images), dim=-1)
        words = m.tokenizer()
        def encode_texts(texts):
            tokens = torch.tensor(words(list(texts), padding="max_length", max_length=m.CONTEXT).input_ids)
            with torch.no_grad():
                return torch.nn.functional.normalize(m._read(model, tokens, 8), dim=-1)
        self.encode_texts = encode_texts


def fit(name, losses, optimisers, steps, families, device):
    found = inspect.getclosurevars(losses).nonlocals
    modules = {key: value for key, value in found.items() if isinstance(value, nn.Module)}
    draw = generator(0, m.NAME, name)
    shares, first = torch.ones(len(families)), 0
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: min((step + 1) / m.WARM_UP, 1 - step / steps))
        for o in optimisers
    ]
    parameters = [p for o in optimisers for group in o.param_groups for p in group["params"]]
    file = HERE / f"{name}.pt"
    held = [*modules.values(), *optimisers, *schedules]
    if file.exists():
        kept = torch.load(file, weights_only=False)
        for part, state in zip(held, kept["states"], strict=True):
            part.load_state_dict(state)
        draw.set_state(kept["draw"])
        torch.set_rng_state(kept["rng"])
        shares, first = kept["shares"], kept["step"]
        log(f"{name}: goes on from step {first} of {steps}")
    total, seen, started = 0.0, 0.0, time.time()
    for step in range(first, steps):
        batch = m._Batch.draw(families, shares, draw)
        with m._attention(device), m.training_precision(device):
            loss, each, exchanged = losses(batch)
        shares = torch.where(
            torch.tensor([len(rows) > 0 for rows in batch.rows]), 0.95 * shares + 0.05 * torch.tensor(each), shares
        )
        for o in optimisers:
            o.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for stepped in (*optimisers, *schedules):
            stepped.step()
        total, seen, done = total + loss.item(), seen + exchanged, step + 1
        if done % 100 == 0 or done == steps or done == LAST:
            n = (done - first - 1) % 100 + 1
            log(f"{name} {done}/{steps}: {(time.time() - started) / n:.3f} s a step, loss {total / n:.3f}, "
                f"exchanged {seen / n:.3f}, by family " + " ".join(f"{share:.2f}" for share in shares))
            total, seen, started = 0.0, 0.0, time.time()
        if done % 500 == 0 or done == steps:
            part = file.with_suffix(".part")
            torch.save({"states": [h.state_dict() for h in held], "draw": draw.get_state(),
                        "rng": torch.get_rng_state(), "shares": shares, "step": done}, part)
            part.rename(file)
        if done % 1000 == 0 or done == steps or (done == 500 and name == "teacher"):
            model = modules["model"]
            see = (lambda x: modules["teacher"](x)[0]) if name == "teacher" else model.visual
            see = see if name == "teacher" else (lambda x: model.visual(m._normalised(x)))
            for module in modules.values():
                module.eval()
            apart = tm.told_apart(Eyes(see, model), 500)
            for key, module in modules.items():
                module.train(key != "teacher" or name == "teacher")
            log(f"{name} {done}: told apart {apart}")
            if name == "teacher" and done == steps and apart["colours"] < 0.57:
                log("WARNING: after the teacher stage colours are still at chance; going on anyway")
            started = time.time()
        if done == LAST:
            return


m._examples, m._fit = cached, fit
(HERE / "pid").write_text(f"{os.getpid()}\n")
log(f"start: {sys.argv[1:]}, pid {os.getpid()}")
model = m.train("cpu")
if LAST:
    sys.exit()
config = m.config()
cards.save_clip(FOLDER, model, m.tokenizer(), config)
log("saved")
clip = load_clip(f"local-dir:{FOLDER}")
result = {
    "steps": sys.argv[1:],
    "zero_shot_accuracy": {name: tm.scene_accuracy(clip, name, tm.UNBIASED[name]) for name in m.MAKERS}
    | {"digits": tm.zero_shot_accuracy(clip)},
    "zero_shot_accuracy_as_biased_as_the_corpus": {
        name: tm.scene_accuracy(clip, name, m.BIASES[name]) for name in m.MAKERS
    },
    "zero_shot_accuracy_of_groups": tm.waterbird_groups(clip),
    "told_apart": tm.told_apart(clip),
    "parameters": sum(p.numel() for p in clip.model.parameters()),
    "bytes": sum(f.stat().st_size for f in FOLDER.iterdir()),
}
(HERE / "result.json").write_text(json.dumps(result, indent=2) + "\n")
log("measured: result.json")
