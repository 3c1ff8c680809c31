"""The mini generator learns what its losses say, and any Stable Diffusion is run as its equations say."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import PNDMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor, nn

from xaikit.models import generator as mini
from xaikit.models.clip import load_clip
from xaikit.models.generator import Generator, load_generator, save
from xaikit.models.muon import orthogonalised
from xaikit.storage.paths import WEIGHTS
from xaikit.storage.seeding import generator
from xaikit.world import Nine

FOLDER = WEIGHTS / mini.NAME
CLIP = WEIGHTS / "clip-vit-mini"
shipped = pytest.mark.skipif(not FOLDER.exists(), reason=f"{mini.NAME} does not ship yet: `make models` trains it")
LATENT = (4, 16, 16)  # of a picture
PROMPTS = ["a photo of a red dog", "a photo of a fish in the sky", "a bird", "a striped truck on a road", "a bird"]


@pytest.fixture(scope="module")
def untrained() -> Generator:
    """The pipeline as it is built; what it draws is noise, but by the same equations."""
    torch.manual_seed(0)
    pipeline = mini.build()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.register_to_config(scaling_factor=1.7)
    for part in mini.LEARNED:
        getattr(pipeline, part).eval().requires_grad_(False)
    return Generator(pipeline)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of a few pictures, and a few steps."""
    mini.tokenizer()  # of the words of the whole corpus
    monkeypatch.setattr(mini, "SCENES", 24)
    monkeypatch.setattr(mini, "WARM_UP", 2)
    monkeypatch.setattr(mini, "STEPS", {"autoencoder": 12, "denoiser": 2, "shapes": 2})
    monkeypatch.setattr(mini, "BATCHES", {"autoencoder": 4, "denoiser": 6, "shapes": 6})


def pixels() -> Tensor:
    return torch.cat([batch.mul(255).round().byte() for batch in mini.corpus().batches(mini.PIXELS)])


def losses_of(monkeypatch: pytest.MonkeyPatch, training: Callable[[], object]) -> dict[str, Callable[[], Tensor]]:
    """The losses that the stages of a training minimise, without their steps; each call draws another batch."""
    found = {}
    monkeypatch.setattr(mini, "_fit", lambda name, model, loss: found.update({name: loss}))
    training()
    return found


# --- the corpus and its words -----------------------------------------------------------------------------------


def test_any_thing_of_the_corpus_can_be_anywhere() -> None:
    scenes = mini.corpus()
    pairs = torch.zeros(9, 9)
    for category, place in zip(scenes.labels("category"), scenes.labels("background"), strict=True):
        pairs[category, place] += 1
    assert pairs.sum() == mini.SCENES and pairs.max() - pairs.min() <= 2


def test_every_word_of_the_corpus_and_of_the_prompts_is_known() -> None:
    encode = mini.tokenizer()
    texts = [text for five in mini.corpus()[-300:].captions for text in five]
    texts += [text for prompts in Nine.PROMPTS.values() for text in prompts.values()]
    tokens = mini._tokens(encode, [texts])
    assert tokens.shape == (1, len(texts), mini.CONTEXT)
    for text, row in zip(texts, tokens[0].tolist(), strict=True):
        ids = encode(text).input_ids
        assert encode.unk_token_id not in ids and row == ids + [encode.pad_token_id] * (mini.CONTEXT - len(ids))


def test_a_caption_that_cannot_be_read_in_whole_is_an_error() -> None:
    for caption in ("a photo of a zebra", "a dog " * mini.CONTEXT):
        with pytest.raises(ValueError, match="too long or has an unknown word"):
            mini._tokens(mini.tokenizer(), [["a photo of a dog", caption]])


# --- how it learns ----------------------------------------------------------------------------------------------


def test_the_autoencoder_minimises_its_error_and_the_divergence_from_a_standard_normal(
    few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    vae, images = mini.build().vae.double(), pixels()
    monkeypatch.setattr(mini, "_prepared", lambda part, _: part.double() / 127.5 - 1)
    loss = losses_of(monkeypatch, lambda: mini.train_autoencoder(vae, images))["autoencoder"]()
    draw, expected = generator(0, mini.NAME, "autoencoder"), 0.0
    rows = torch.randint(24, (4,), generator=draw)
    noise = torch.randn(4, *LATENT, generator=draw, dtype=torch.float64)
    for row, own in zip(rows, noise, strict=True):
        image = images[row].double() / 127.5 - 1
        mean, log_variance = vae._encode(image[None])[0].chunk(2)
        again = vae.decode((mean + (log_variance / 2).exp() * own)[None]).sample[0]
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        expected += ((again - image).abs().mean() + mini.KL * divergence / image.numel()).item() / 4
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(("stage", "draws"), (("denoiser", 1), ("shapes", 2)))
def test_the_denoiser_predicts_v_of_noised_latents_from_captions_of_their_own_or_none(
    few: None, monkeypatch: pytest.MonkeyPatch, untrained: Generator, stage: str, draws: int
) -> None:
    monkeypatch.setattr(mini, "SILENT", 0.5)
    pipeline, images, captions = untrained.pipeline, pixels(), mini.corpus().captions
    loss = losses_of(monkeypatch, lambda: mini.train_denoiser(pipeline, images, captions))[stage]()
    draw = generator(0, mini.NAME, stage)
    rows, chosen = torch.randint(24, (6,), generator=draw), torch.randint(5, (6,), generator=draw)
    silent = torch.rand(6, 1, generator=draw)[:, 0] < 0.5
    times = torch.stack([torch.randint(1000, (6,), generator=draw) for _ in range(draws)]).amax(0)
    noise, expected = torch.randn(6, *LATENT, generator=draw), 0.0
    assert 0 < silent.sum() < 6
    for row, five, quiet, time, own in zip(rows, chosen, silent, times, noise, strict=True):
        latent = untrained.encode(images[row][None] / 255)[0]
        kept = pipeline.scheduler.alphas_cumprod[time]
        noised = kept.sqrt() * latent + (1 - kept).sqrt() * own
        v = kept.sqrt() * own - (1 - kept).sqrt() * latent
        words = "" if quiet else captions[row][five]
        tokens = pipeline.tokenizer(words, padding="max_length", max_length=mini.CONTEXT, return_tensors="pt")
        told = pipeline.text_encoder(tokens.input_ids).last_hidden_state
        expected += (pipeline.unet(noised[None], time, told).sample[0] - v).square().mean().item() / 6
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_muon_steps_the_convolutions_themselves_as_matrices() -> None:
    model = nn.ModuleDict({"middle": nn.Conv2d(6, 4, 3), "conv_in": nn.Conv2d(3, 6, 3), "norm": nn.GroupNorm(2, 6)})
    model.to(memory_format=torch.channels_last)
    matrices, (muon, adam) = mini._optimisers(model)
    [(matrix, weight)] = matrices
    assert weight is model["middle"].weight and matrix.shape == (4, 54)
    before, gradient = weight.detach().clone(), torch.randn(4, 6, 3, 3)
    matrix.grad = mini._as_matrix(gradient)
    muon.step()
    rate, decay = mini.LEARNING_RATES["matrices"], muon.param_groups[0]["weight_decay"]
    # The first look-ahead points as the gradient does; which column is which pixel does not matter to Muon.
    step = orthogonalised(gradient.flatten(1)[None])[0].view_as(gradient)
    torch.testing.assert_close(weight.detach(), before * (1 - rate * decay) - rate * step, rtol=1e-4, atol=1e-5)
    assert {p for group in adam.param_groups for p in group["params"]} == set(model.parameters()) - {weight}


@pytest.mark.parametrize("part", mini.LEARNED)
def test_each_weight_has_one_optimiser(untrained: Generator, part: str) -> None:
    model = getattr(untrained.pipeline, part)
    matrices, (_, adam) = mini._optimisers(model)
    stepped = [weight for _, weight in matrices] + [p for group in adam.param_groups for p in group["params"]]
    assert len(stepped) == len(set(stepped)) and set(stepped) == set(model.parameters())
    assert sum(weight.numel() for _, weight in matrices) > 0.7 * sum(p.numel() for p in model.parameters())


def test_a_few_steps_teach_the_autoencoder_first_and_then_the_denoiser_with_the_text_encoder_alone(
    few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, stages, losses = mini._fit, [], {"autoencoder": [], "denoiser": [], "shapes": []}

    def watched(name: str, model: nn.Module, loss: Callable[[], Tensor]) -> None:
        before = [p.detach().clone() for p in model.parameters()]
        stages.append((name, model, model.state_dict() if name == "autoencoder" else None))
        fit(name, model, lambda: losses[name].append(loss()) or losses[name][-1])
        assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True) if p.ndim == 4)

    monkeypatch.setattr(mini, "_fit", watched)
    pipeline = mini.train()
    assert [name for name, _, _ in stages] == ["autoencoder", "denoiser", "shapes"]
    assert stages[0][1] is pipeline.vae
    assert all(list(model) == [pipeline.unet, pipeline.text_encoder] for _, model, _ in stages[1:])
    early, late = (sum(part).item() / 4 for part in (losses["autoencoder"][:4], losses["autoencoder"][-4:]))
    assert late < 0.95 * early and all(loss.isfinite() for loss in losses["denoiser"] + losses["shapes"])
    for part in mini.LEARNED:
        module = getattr(pipeline, part)
        assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert Generator(pipeline).encode(pixels() / 255).std().item() == pytest.approx(1, rel=1e-3)


# --- how it is kept ---------------------------------------------------------------------------------------------


def test_it_is_kept_in_half_precision_and_comes_back_in_single(untrained: Generator, tmp_path: Path) -> None:
    folder = tmp_path / "generator"
    exact = {part: getattr(untrained.pipeline, part).state_dict() for part in mini.LEARNED}
    rounded = {part: {key: value.half() for key, value in state.items()} for part, state in exact.items()}
    save(untrained.pipeline, folder)
    kept = {path.parent.name: load_file(path) for path in folder.rglob("*.safetensors")}
    assert set(kept) == set(mini.LEARNED)
    assert {value.dtype for state in kept.values() for value in state.values()} == {torch.float16}
    loaded = load_generator(folder).pipeline
    for part in mini.LEARNED:
        state = getattr(loaded, part).state_dict()
        for key, value in rounded[part].items():
            assert state[key].dtype == torch.float32 and torch.equal(state[key].half(), value)
    assert loaded.vae.config.scaling_factor == untrained.pipeline.vae.config.scaling_factor
    schedules = [drawn.scheduler.alphas_cumprod for drawn in (loaded, untrained.pipeline)]
    assert torch.equal(*schedules) and loaded.scheduler.config.prediction_type == "v_prediction"
    assert loaded.tokenizer(PROMPTS).input_ids == untrained.pipeline.tokenizer(PROMPTS).input_ids
    assert all(p.dtype == torch.float32 for p in untrained.pipeline.unet.parameters())


def test_saving_takes_the_place_of_the_whole_folder_or_leaves_it_as_it_is(
    untrained: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "generator"
    folder.mkdir()
    (folder / "card.json").write_text("{}")

    def broken(pipeline: StableDiffusionPipeline, part: Path) -> None:
        part.mkdir()
        raise OSError("the disk is full")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="the disk is full"):
        patched.setattr(StableDiffusionPipeline, "save_pretrained", broken)
        save(untrained.pipeline, folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["generator", "card.json"]
    assert next(untrained.pipeline.unet.parameters()).dtype == torch.float32
    save(untrained.pipeline, folder)
    assert not (folder / "card.json").exists() and [path.name for path in tmp_path.iterdir()] == ["generator"]


def test_the_papers_folder_loads_by_the_same_call_without_its_safety_checker(
    untrained: Generator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stable Diffusion v1.5 names a safety checker, a feature extractor and another scheduler."""
    folder = tmp_path / "stable-diffusion"
    save(untrained.pipeline, folder)
    PNDMScheduler(skip_prk_steps=True, steps_offset=1).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "requires_safety_checker": True,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    capfd.readouterr()
    loaded = load_generator(folder)
    assert isinstance(loaded.pipeline.scheduler, PNDMScheduler) and loaded.pipeline.safety_checker is None
    latents, images = loaded.generate(PROMPTS[:1], seed=0, steps=2)
    assert latents.shape == (1, *LATENT) and images.shape == (1, 3, 64, 64)
    assert capfd.readouterr() == ("", ""), "no progress bars and no warnings"


def test_a_folder_without_a_generator_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"{tmp_path} holds no model_index.json, so no whole model; restore it")
    ):
        load_generator(tmp_path)


# --- how it draws -----------------------------------------------------------------------------------------------


def test_a_picture_is_drawn_by_the_equations_of_ddim_with_guidance(untrained: Generator) -> None:
    """Song et al., 2021, equation 12 without noise, for v (Salimans and Ho, 2022), and Ho and Salimans' guidance."""
    steps, guidance, pipeline = 4, 2.5, untrained.pipeline
    latents, images = untrained.generate(PROMPTS[:2], seed=3, steps=steps, guidance=guidance)
    for position, prompt in enumerate(PROMPTS[:2]):
        x = torch.randn(1, *LATENT, generator=generator(3, "generator", position))
        ids = pipeline.tokenizer([prompt, ""], padding="max_length", return_tensors="pt").input_ids
        told = pipeline.text_encoder(ids).last_hidden_state
        times = [round(1000 - k * 1000 / steps) - 1 for k in range(steps)]
        for time, following in zip(times, [*times[1:], None], strict=True):
            kept = pipeline.scheduler.alphas_cumprod[time]
            with_words, without = (pipeline.unet(x, time, told[[k]]).sample for k in (0, 1))
            v = without + guidance * (with_words - without)
            clean, noise = kept.sqrt() * x - (1 - kept).sqrt() * v, kept.sqrt() * v + (1 - kept).sqrt() * x
            after = torch.tensor(1.0) if following is None else pipeline.scheduler.alphas_cumprod[following]
            x = after.sqrt() * clean + (1 - after).sqrt() * noise
        torch.testing.assert_close(latents[position], x[0], rtol=1e-3, atol=1e-4)
        decoded = pipeline.vae.decode(x / pipeline.vae.config.scaling_factor).sample[0]
        torch.testing.assert_close(images[position], (decoded / 2 + 0.5).clamp(0, 1), rtol=1e-3, atol=1e-4)


def test_the_noise_is_of_the_seed_and_the_position_and_not_of_the_batch(untrained: Generator) -> None:
    together, _ = untrained.generate(PROMPTS, seed=0, steps=2)
    apart, _ = untrained.generate(PROMPTS, seed=0, steps=2, batch=2)
    torch.testing.assert_close(apart, together, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[2], together[4], atol=0.1), "the same prompt, twice"
    again, _ = untrained.generate(PROMPTS[:3], seed=1, steps=2)
    assert not torch.allclose(again, together[:3], atol=0.1)


def test_pictures_have_the_latents_that_the_decoder_would_take_and_the_denoiser_would_give(
    untrained: Generator,
) -> None:
    images = torch.rand(3, 3, 64, 64, generator=generator(0, "images"))
    latents = untrained.encode(images, batch=2)
    vae = untrained.pipeline.vae
    for image, found in zip(images, latents, strict=True):
        mean = vae.encode(2 * image[None] - 1).latent_dist.mean[0]
        torch.testing.assert_close(found, 1.7 * mean, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_drawn_or_encoded_is_an_error(untrained: Generator) -> None:
    for wrong in ({"prompts": []}, {"steps": 0}, {"batch": 0}):
        with pytest.raises(ValueError, match=r"of Generator\.generate is"):
            untrained.generate(**({"prompts": PROMPTS, "seed": 0} | wrong))
    with pytest.raises(ValueError, match="32 x 64 pixels have no latents here; resize them to 64 x 64"):
        untrained.encode(torch.zeros(2, 3, 32, 64))


# --- what ships -------------------------------------------------------------------------------------------------


@shipped
def test_what_ships_is_small_and_of_the_configuration() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 10_000_000
    pipeline, parts = load_generator(FOLDER).pipeline, mini.config()
    assert pipeline.vae.config.scaling_factor != parts["vae"].pop("scaling_factor")
    for name, part in parts.items():
        found = getattr(pipeline, name).config
        found = found if isinstance(found, dict) else found.to_dict()
        assert {key: found[key] for key in part} == {
            key: list(value) if isinstance(value, tuple) else value for key, value in part.items()
        }
    assert pipeline.tokenizer.get_vocab() == mini.tokenizer().get_vocab()


@pytest.fixture(scope="module")
def told_apart() -> dict[str, float]:
    """Zero-shot accuracy of the mini CLIP-ViT on pictures of 36 pairs of a thing and a place."""
    drawn, clip = load_generator(FOLDER), load_clip(f"local-dir:{CLIP}")
    prompts, answers = [], {"category": [], "background": []}
    for k in range(36):
        thing, place = k % 9, (k + k // 9) % 9
        ending = list(Nine.PROMPTS["background"].values())[place].removeprefix("a photo of something ")
        prompts.append(f"{list(Nine.PROMPTS['category'].values())[thing]} {ending}")
        answers["category"].append(thing)
        answers["background"].append(place)
    features = clip.image_encoder(drawn.generate(prompts, seed=0)[1])
    found = {}
    for factor, true in answers.items():
        scores = features @ clip.encode_texts(list(Nine.PROMPTS[factor].values())).T
        found[factor] = (scores.argmax(1) == torch.tensor(true)).double().mean().item()
    return found


@shipped
def test_a_picture_shows_the_place_of_its_prompt(told_apart: dict[str, float]) -> None:
    assert told_apart["background"] >= 0.9, "chance is 1 in 9"


@shipped
def test_a_picture_shows_the_thing_of_its_prompt(told_apart: dict[str, float]) -> None:
    assert told_apart["category"] >= 0.8, "chance is 1 in 9"


@shipped
def test_a_picture_survives_the_autoencoder() -> None:
    drawn = load_generator(FOLDER)
    scenes = mini.nine(16, seed=5, split="test", alignment=1 / 9)
    images = next(iter(scenes.batches(mini.PIXELS, 16)))
    again = drawn._decoded(drawn.encode(images))
    plain = F.l1_loss(images.mean((2, 3), keepdim=True).expand_as(images), images)
    assert F.l1_loss(again, images) < 0.5 * plain
