"""Text-to-image latent diffusion: the mini generator of drawn scenes, and how any Stable Diffusion is run.

It plays the part of Stable Diffusion v1.5 in the faithfulness test on a generator's latents of paper 2 (section 4.3),
and is the same pipeline of diffusers in a small configuration: an autoencoder that learns to make pictures small, and
a network that learns to take the noise from these latents, given a caption (Rombach et al., 2022). It draws the scenes
of one family, `nine`, in which any thing can be anywhere.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from tqdm import tqdm, trange
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from xaikit.arguments import UNIT, Count, Device, NotNegative, Seed, Texts, public
from xaikit.models.cards import shipped
from xaikit.models.clip_training import word_tokenizer
from xaikit.models.hub import find, load_whole, named, remember, said
from xaikit.models.muon import Muon
from xaikit.models.precision import training_precision
from xaikit.models.quietly import without_progress_bars
from xaikit.models.tokens import report_losses
from xaikit.storage.seeding import generator, seed_for
from xaikit.world import SceneSet, nine

NAME = "generator-mini"
PIXELS, CONTEXT = 64, 16
SCENES = 12_000
BATCHES = {"autoencoder": 8, "denoiser": 32, "shapes": 64}
STEPS = {"autoencoder": 3_000, "denoiser": 2_200, "shapes": 3_600}
LEARNING_RATES = {"matrices": 0.02, "others": 2e-3}  # "matrices" is Muon's
WARM_UP = 50  # steps to the full learning rates, which then fall to 0 in a straight line
KL = 0.02  # nats, per value of a picture: keeps the latents near a standard normal without blurring them
SILENT = 0.1  # share of the captions that are left out, so that guidance has something to guide away from
# The parts of the pipeline that learn, in the names that diffusers gives them.
LEARNED = ("vae", "text_encoder", "unet")


def config() -> dict:
    """The configurations of the autoencoder, the text encoder, the denoiser and the scheduler."""
    levels, latents, width = (8, 16, 32), 4, 128
    words = tokenizer()
    return {
        "vae": {
            "down_block_types": ("DownEncoderBlock2D",) * len(levels),
            "up_block_types": ("UpDecoderBlock2D",) * len(levels),
            "block_out_channels": levels,
            "layers_per_block": 1,
            "latent_channels": latents,
            "norm_num_groups": 4,
            "mid_block_add_attention": False,
            "sample_size": PIXELS,
            "scaling_factor": 1.0,  # until the training sets it
        },
        "text_encoder": {
            "vocab_size": len(words),
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "pad_token_id": words.pad_token_id,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
        },
        "unet": {
            "sample_size": PIXELS // 2 ** (len(levels) - 1),
            "in_channels": latents,
            "out_channels": latents,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (32, 64, 96),
            "layers_per_block": 1,
            "cross_attention_dim": width,
            "attention_head_dim": (1, 2, 3),  # the number of heads of each level, in spite of its name
            "norm_num_groups": 8,
        },
        "scheduler": {
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "v_prediction",
            "clip_sample": False,
            "set_alpha_to_one": True,
            "steps_offset": 1,
            "timestep_spacing": "trailing",
        },
    }


def corpus() -> SceneSet:
    """The scenes that the generator learns from: any thing in any place, equally often."""
    return nine(SCENES, seed=0, split="corpus", alignment=1 / 9)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; the vocabulary is that of the captions of the first scenes, which use every word."""
    return word_tokenizer([text for five in corpus()[:1000].captions for text in five], CONTEXT)


def build() -> StableDiffusionPipeline:
    """The pipeline with weights that have learnt nothing."""
    parts = config()
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**parts["vae"]),
        text_encoder=CLIPTextModel(CLIPTextConfig(**parts["text_encoder"])),
        tokenizer=tokenizer(),
        unet=UNet2DConditionModel(**parts["unet"]),
        scheduler=DDIMScheduler(**parts["scheduler"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def train(device: str = "cpu") -> StableDiffusionPipeline:
    """Train the generator from nothing. Takes nearly two hours on two cores.

    First the autoencoder learns to give back each picture. Then it stays as it is, and the denoiser learns with the
    text encoder to tell the noise in the latents of the whole corpus from what was there.
    """
    torch.manual_seed(seed_for(0, NAME, "weights"))
    pipeline = build()
    pipeline.to(device)
    scenes = corpus()
    drawn = tqdm(scenes.batches(PIXELS, 500), "drawing", -(-len(scenes) // 500), mininterval=5)
    pixels = torch.cat([batch.mul(255).round().byte() for batch in drawn])
    train_autoencoder(pipeline.vae, pixels)
    train_denoiser(pipeline, pixels, scenes.captions)
    return pipeline


def train_autoencoder(vae: AutoencoderKL, pixels: UInt8[Tensor, "images 3 height width"]) -> None:
    """Teach the autoencoder to give back pictures from latents near a standard normal, and set its scaling factor.

    The loss is the mean absolute error and a small share of the divergence from the standard normal.
    """
    draw = generator(0, NAME, "autoencoder")

    def loss() -> Float[Tensor, ""]:
        rows = torch.randint(len(pixels), (BATCHES["autoencoder"],), generator=draw)
        images = _prepared(pixels[rows], vae)
        posterior = vae.encode(images).latent_dist
        found = vae.decode(posterior.sample(draw)).sample
        return F.l1_loss(found, images) + KL * posterior.kl().mean() / images[0].numel()

    _fit("autoencoder", vae, loss)
    vae.register_to_config(scaling_factor=1 / _latents(vae, pixels).std().item())


def train_denoiser(
    pipeline: StableDiffusionPipeline,
    pixels: UInt8[Tensor, "images 3 height width"],
    captions: Sequence[Sequence[str]],
) -> None:
    """Teach the denoiser and the text encoder to predict v (Salimans and Ho, 2022) of the noised latents.

    A share `SILENT` of the captions is left out. First all amounts of noise come equally often, which is enough for
    places and colours. Then those with more noise, where shapes are decided, come more often: of two draws the larger.
    """
    latents = _latents(pipeline.vae, pixels)
    tokens = _tokens(pipeline.tokenizer, captions)
    silence = _tokens(pipeline.tokenizer, [[""]])[0]
    schedule, text_encoder, unet = pipeline.scheduler, pipeline.text_encoder, pipeline.unet
    levels = schedule.config.num_train_timesteps

    def loss(draw: torch.Generator, size: int, draws: int) -> Float[Tensor, ""]:
        rows = torch.randint(len(latents), (size,), generator=draw)
        chosen = torch.randint(tokens.shape[1], (size,), generator=draw)
        silent = torch.rand(size, 1, generator=draw) < SILENT
        texts = torch.where(silent, silence, tokens[rows, chosen]).to(unet.device)
        times = torch.randint(levels, (draws, size), generator=draw).amax(0)
        clean, noise = latents[rows], torch.randn(size, *latents.shape[1:], generator=draw)
        target = schedule.get_velocity(clean, noise, times).to(unet.device)
        noised = schedule.add_noise(clean, noise, times).to(unet.device, memory_format=torch.channels_last)
        told = text_encoder(texts).last_hidden_state
        return F.mse_loss(unet(noised, times.to(unet.device), told).sample, target)

    for draws, stage in enumerate(("denoiser", "shapes"), start=1):
        drawn = partial(loss, generator(0, NAME, stage), BATCHES[stage], draws)
        _fit(stage, nn.ModuleList([unet, text_encoder]), drawn)


def _fit(name: str, model: nn.Module, loss: Callable[[], Float[Tensor, ""]]) -> None:
    """Take the steps of one stage and leave the model frozen, in evaluation mode."""
    model.train().requires_grad_(True)
    model.to(memory_format=torch.channels_last)  # convolutions are half as fast again on a CPU
    device, steps = next(model.parameters()).device.type, STEPS[name]
    matrices, optimisers = _optimisers(model)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: min((step + 1) / WARM_UP, 1 - step / steps))
        for o in optimisers
    ]
    progress, running = trange(steps, desc=name, mininterval=5), 0.0
    for step in progress:
        with training_precision(device):
            found = loss()
        model.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for matrix, weight in matrices:
            matrix.grad = _as_matrix(weight.grad)
        for stepped in (*optimisers, *schedules):
            stepped.step()
        running += (found.item() - running) / min(step + 1, 100)
        progress.set_postfix_str(f"loss {running:.4f}", refresh=False)
    model.eval().requires_grad_(False)


def _optimisers(model: nn.Module) -> tuple[list[tuple[nn.Parameter, nn.Parameter]], list[torch.optim.Optimizer]]:
    """Muon for all matrices and convolutions between the ends, AdamW for all else.

    Muon steps matrices that share their memory with the weights; the first result is the pairs of them.
    """
    ends = ("conv_in", "conv_out", "quant_conv", "embedding")
    inner = {name for name, p in model.named_parameters() if p.ndim in (2, 4) and not any(end in name for end in ends)}
    named = dict(model.named_parameters())
    matrices = [(nn.Parameter(_as_matrix(named[name].detach())), named[name]) for name in sorted(inner)]
    others = [p for name, p in named.items() if name not in inner]
    return matrices, [
        Muon([matrix for matrix, _ in matrices], LEARNING_RATES["matrices"], weight_decay=0.05),
        torch.optim.AdamW(others, LEARNING_RATES["others"], weight_decay=0.05, betas=(0.9, 0.98)),
    ]


def _as_matrix(weight: Tensor) -> Float[Tensor, "rows columns"]:
    """A convolution in channels-last order as a matrix in the same memory, with a row for each output channel."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight


def _prepared(pixels: UInt8[Tensor, "images 3 height width"], vae: AutoencoderKL) -> Tensor:
    """Pictures as the autoencoder sees them, in [-1, 1]."""
    return (pixels.to(vae.device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _latents(vae: AutoencoderKL, pixels: UInt8[Tensor, "images 3 height width"]) -> Float[Tensor, "images _ _ _"]:
    """The means of the latents of all pictures, scaled, on the CPU."""
    found = [vae.encode(_prepared(part, vae)).latent_dist.mean.cpu() for part in pixels.split(250)]
    return torch.cat(found) * vae.config.scaling_factor


def _tokens(
    words: PreTrainedTokenizerFast, captions: Sequence[Sequence[str]]
) -> Int64[Tensor, "scenes captions context"]:
    """The tokens of all captions. Raises ValueError for one that is too long or has an unknown word."""
    texts = [text for each in captions for text in each]
    tokens = words(texts, padding="max_length", max_length=CONTEXT).input_ids
    if max(map(len, tokens)) > CONTEXT or any(words.unk_token_id in row for row in tokens):
        raise ValueError("A caption is too long or has an unknown word: raise CONTEXT, or show the tokenizer more.")
    return torch.tensor(tokens).unflatten(0, (len(captions), -1))


def save(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write the pipeline in half precision, as a folder that `from_pretrained` of diffusers loads.

    What was in the folder goes when all is written. The weights in memory are rounded as those on disk are.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    learned = [getattr(pipeline, name) for name in LEARNED]
    try:
        for module in learned:
            module.half()
        with without_progress_bars():
            pipeline.save_pretrained(part)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        for module in learned:
            module.float()
        shutil.rmtree(part, ignore_errors=True)


@public
@dataclass(frozen=True, eq=False)
class Generator:
    """A frozen Stable Diffusion, from prompts to pictures and to the latents that they are decoded from.

    Latents are always scaled as the denoiser sees them, with a spread of about 1: the decoder divides them by
    `pipeline.vae.config.scaling_factor`.
    """

    pipeline: StableDiffusionPipeline

    @property
    def size(self) -> int:
        """The side of a picture in pixels."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    @torch.no_grad()
    def generate(
        self,
        prompts: Texts,
        *,
        seed: Seed,
        steps: Count = 20,
        guidance: NotNegative = 3.0,
        batch: Count = 50,
        strict: bool = False,
    ) -> tuple[Float[Tensor, "prompts channels rows columns"], Float[Tensor, "prompts 3 height width"]]:
        """A picture in [0, 1] of each prompt, and the latents of the last step that it is decoded from; on the CPU.

        The noise depends on the seed and the prompt's position alone, so the batches do not matter. Guidance of 1 is
        none. Warns of prompts that are cut and of words that the tokenizer does not know. Raises ValueError where there
        is no prompt, no step or no batch, and with `strict` in place of the warning.
        """
        if not prompts or steps < 1 or batch < 1:
            raise ValueError(
                f"{len(prompts)} prompts cannot be drawn in {steps} steps, {batch} at once; give at least 1 of each."
            )
        report_losses(prompts, self.pipeline.tokenizer, self.pipeline.tokenizer.model_max_length, strict=strict)
        latents, images = [], []
        for start in range(0, len(prompts), batch):
            texts = list(prompts[start : start + batch])
            found = self.pipeline(
                texts,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[generator(seed, "generator", start + i) for i in range(len(texts))],
                output_type="latent",
            ).images
            latents.append(found.cpu())
            images.append(self._decoded(found).cpu())
        return torch.cat(latents), torch.cat(images)

    def _decoded(self, latents: Float[Tensor, "images channels rows columns"]) -> Float[Tensor, "images 3 _ _"]:
        vae = self.pipeline.vae
        return (vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(
        self, images: Annotated[Float[Tensor, "images 3 height width"], UNIT], *, batch: Count = 50
    ) -> Float[Tensor, "images channels rows columns"]:
        """The latents of pictures in [0, 1], on the CPU: the means that the autoencoder finds, scaled as those drawn.

        Raises ValueError for pictures of another size than those that are drawn.
        """
        vae, size = self.pipeline.vae, self.size
        if images.shape[-2:] != (size, size):
            height, width = images.shape[-2:]
            raise ValueError(
                f"Pictures of {height} x {width} pixels have no latents here; resize them to {size} x {size}."
            )
        found = [vae.encode(2 * part.to(vae.device) - 1).latent_dist.mean.cpu() for part in images.split(batch)]
        return torch.cat(found) * vae.config.scaling_factor


@public
def load_generator(name: str | Path, device: Device = "cpu") -> Generator:
    """Load a Stable Diffusion from a folder, or by its name on the Hugging Face hub, from where it is downloaded.

    In float32, in evaluation mode, frozen, without a safety checker, as that would blacken pictures. A name may pin a
    commit ("owner/name@COMMIT", see `models.hub`). Raises ValueError for a folder without a pipeline or with files that
    are not its card's, for weights that do not fit their configuration, for a pipeline that asks for code of its own,
    and for one that cannot be reached.
    """
    source = find(name, "model_index.json")
    kinds = dict(zip(LEARNED, (AutoencoderKL, CLIPTextModel, UNet2DConditionModel), strict=True))
    with said(f"The generator {name}"), without_progress_bars() if source.revision is None else nullcontext():
        parts = {part: load_whole(kind, source, subfolder=part).float() for part, kind in kinds.items()}
        pipeline = StableDiffusionPipeline.from_pretrained(
            source.name, **source.options, **parts, safety_checker=None, requires_safety_checker=False,
            use_safetensors=True, trust_remote_code=False,
        ).to(device)  # fmt: skip
    remember(source)
    pipeline.set_progress_bar_config(disable=True)
    for part in LEARNED:
        getattr(pipeline, part).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return Generator(pipeline)


def load_from(settings: Mapping[str, str], device: str = "cpu") -> Generator:
    """The generator that a profile names: `weights` that ship, or the `name`, and maybe `revision`, at the hub."""
    return load_generator(shipped(settings["weights"]) if "weights" in settings else named(settings), device)
