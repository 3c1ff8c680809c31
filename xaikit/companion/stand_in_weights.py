"""Stand-ins for the weights that the paper profile names: random, where each library looks for what it has downloaded.

Names, input sizes, tokenizers and the shape of every interface are the real ones; layers and widths are cut, so that a
rehearsal fits a laptop. CLIP's configurations are cut by files that open_clip reads in place of its own.
"""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import open_clip
import open_clip.tokenizer
import timm
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet50_Weights, resnet50
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

from xaikit.companion.preflight import pinned
from xaikit.storage.seeding import seed_for

REVISION = "0" * 40  # of what no profile pins

# What of an open_clip model is cut. Its stages' widths, heads and input size are what the notebooks count on.
CLIPS = {
    ("RN50-quickgelu", "openai"): {"vision_cfg": {"layers": [1, 1, 1, 1]}},
    ("ViT-B-32-quickgelu", "openai"): {"vision_cfg": {"layers": 3}},
    ("ViT-B-16", "laion2b_s34b_b88k"): {"vision_cfg": {"width": 192, "head_width": 16}},
    ("ViT-L-14", "laion2b_s32b_b82k"): {"vision_cfg": {"width": 128, "head_width": 8}},
    ("ViT-H-14", "laion2b_s32b_b79k"): {"vision_cfg": {"width": 128, "head_width": 8}},
}
TEXT = {"width": 16, "heads": 1, "layers": 1}  # CLIP's own tokenizer and length stay, and 240,000 prompts of classes


def write_all(folder: Path, configs: Path, words: Iterable[str]) -> None:
    """Write every model of the paper profile into `folder`, and CLIP's configurations into `configs`.

    `words` are those that the word pieces are made of.

    The process has to run under `rehearsal.environment` from before the libraries are loaded.
    """
    torch.manual_seed(seed_for(0, "stand-in weights"))
    write_clips(folder, configs)
    write_timm(folder, "vit_base_patch16_384.orig_in21k_ft_in1k")
    write_resnet(folder)
    write_blip_and_bert(folder, words)
    write_stable_diffusion(folder)


def _slot(folder: Path, repository: str) -> Path:
    """Where the hub's client keeps the files of a repository."""
    repository = repository.strip("/")
    revision = pinned("rehearsal").get(repository, REVISION)
    base = folder / "hub" / "hub" / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True, exist_ok=True)
    (base / "refs" / "main").write_text(revision, encoding="utf-8")
    files = base / "snapshots" / revision
    files.mkdir(parents=True, exist_ok=True)
    return files


def _halves(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state in half precision, as large models are handed round; integers stay."""
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }


def write_clips(folder: Path, configs: Path) -> None:
    """open_clip's models, with the configurations in which they are cut."""
    configs.mkdir(parents=True, exist_ok=True)
    for (name, tag), cut in CLIPS.items():
        config = open_clip.get_model_config(name)
        config["vision_cfg"] |= cut["vision_cfg"]
        config["text_cfg"] |= TEXT
        (configs / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
        open_clip.add_model_config(configs / f"{name}.json")
        model = open_clip.create_model(name)
        _agree(model)
        repository = open_clip.get_pretrained_cfg(name, tag)["hf_hub"]
        save_file(_halves(model), _slot(folder, repository) / "open_clip_model.safetensors")


@torch.no_grad()
def _agree(model: open_clip.CLIP) -> None:
    """Give texts and images of a random CLIP a direction in common, as those of a trained one have.

    Their cosines are then above 0, and published scores are divided by them.
    """
    features = model.text_projection.shape[1]
    common = 0.7 * torch.nn.functional.normalize(torch.randn(features), dim=0) * features**0.5
    if isinstance(model.visual, open_clip.transformer.VisionTransformer):
        projections = [(model.visual.ln_post, model.visual.proj)]
    else:
        projections = []
        model.visual.attnpool.c_proj.bias += common
    for norm, projection in [*projections, (model.ln_final, model.text_projection)]:
        norm.bias += 1
        projection += common / len(projection)  # what is normed adds up to its length now, for every text and image


def write_timm(folder: Path, name: str) -> None:
    """A classifier of timm, of as many layers as `rehearsal.cut_models` leaves it."""
    model = timm.create_model(name, pretrained=False)
    files = _slot(folder, f"timm/{name}")
    save_file(_halves(model), files / "model.safetensors")
    keys = ("input_size", "num_classes", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    about = {key: model.pretrained_cfg[key] for key in keys if key in model.pretrained_cfg}
    config = {"architecture": name.split(".")[0], "num_classes": 1000, "pretrained_cfg": about}
    (files / "config.json").write_text(json.dumps(config), encoding="utf-8")


def write_resnet(folder: Path) -> None:
    """torchvision's ResNet-50, cut as `rehearsal.cut_models` does it, under the name of the file that it downloads."""
    file = folder / "torch" / "hub" / "checkpoints" / ResNet50_Weights.IMAGENET1K_V2.url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(resnet50().state_dict(), file)


def word_pieces(words: Iterable[str]) -> list[str]:
    """A vocabulary of word pieces: whole words of up to seven letters, and pieces of longer ones, as in BERT's."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,'-\"!?:;()&/"]
    whole = sorted({word for word in words if word.isascii() and word.isalpha() and 1 < len(word) <= 7})
    ends = sorted({f"##{word[-4:]}" for word in words if word.isascii() and word.isalpha() and len(word) > 7})
    return list(dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *whole, *ends]))


def write_blip_and_bert(folder: Path, words: Iterable[str]) -> None:
    """BLIP, whose decoder explains, and BERT, which compares sentences: two layers each, one vocabulary."""
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(word_pieces(words)) + "\n", encoding="utf-8")
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4}
    tokenizer = BertTokenizerFast(str(vocabulary))
    files = _slot(folder, "google-bert/bert-base-uncased")
    BertForMaskedLM(
        BertConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, **sizes)
    ).save_pretrained(files)
    tokenizer.save_pretrained(files)

    tokenizer = BertTokenizerFast(str(vocabulary))
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    small = {"hidden_size": 48, "intermediate_size": 96, **sizes}
    text = {
        **small, "vocab_size": len(tokenizer), "encoder_hidden_size": 48, "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = BlipConfig(vision_config={**small, "image_size": 384, "patch_size": 16}, text_config=text)
    files = _slot(folder, "Salesforce/blip-image-captioning-base")
    config.architectures = ["BlipForConditionalGeneration"]
    config.save_pretrained(files)
    # As the real one, which has no safetensors.
    torch.save(BlipForConditionalGeneration(config).state_dict(), files / "pytorch_model.bin")
    BlipImageProcessor(size={"height": 384, "width": 384}).save_pretrained(files)
    tokenizer.save_pretrained(files)


def write_stable_diffusion(folder: Path) -> None:
    """Stable Diffusion's pipeline at its 512 pixels, every block of it narrow."""
    simple = open_clip.tokenizer.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    words = folder / "clip_tokenizer"
    words.mkdir(exist_ok=True)
    vocabulary = {names.get(text, text): id for text, id in simple.encoder.items()}
    (words / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    listed = gzip.decompress(Path(open_clip.tokenizer.default_bpe()).read_bytes()).decode().split("\n")
    merges = listed[1 : 49152 - 256 - 2 + 1]
    (words / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    start, end = (simple.encoder[name] for name in names)
    narrow = (8, 16, 16, 16)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=512,
        scaling_factor=0.18215,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(simple.encoder), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, bos_token_id=start, eos_token_id=end, pad_token_id=end,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, block_out_channels=narrow, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=32, attention_head_dim=8, norm_num_groups=4,
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
        set_alpha_to_one=False,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=text, unet=unet, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
        tokenizer=CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=77),
    ).save_pretrained(_slot(folder, "stable-diffusion-v1-5/stable-diffusion-v1-5"))  # fmt: skip
