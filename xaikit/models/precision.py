"""Training of the models that ship, in bfloat16 where the machine has it; for what notebooks train see `arithmetic`."""

import torch


def training_precision(device: str) -> torch.autocast:
    """An autocast context: bfloat16 on a GPU or CPU that multiplies it natively, else float32 as it is."""
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        abilities = torch.cpu.get_capabilities()
        native = bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
    return torch.autocast(kind, torch.bfloat16, enabled=native)
