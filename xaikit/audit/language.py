"""What an audit reads pictures with: CLIPs, and a captioner, each by its name."""

from collections.abc import Sequence
from dataclasses import dataclass

from xaikit.arguments import Device, public
from xaikit.audit.load import named_clip
from xaikit.models.captioner import Captioner, load_captioner
from xaikit.models.clip import Clip
from xaikit.models.hub import said
from xaikit.storage.paths import WEIGHTS

MINI_CLIPS, MINI_CAPTIONER = ("clip-vit-mini", "clip-resnet-mini"), "captioner-mini"


@public
@dataclass(frozen=True, eq=False)
class Language:
    """The language side of an audit: CLIPs by their names, the first one reads texts; and a captioner, or None."""

    clips: dict[str, Clip]
    captioner: Captioner | None = None


@public
def load_language(clips: Sequence[str], captioner: str = "", device: Device = "cpu") -> Language:
    """CLIPs by open_clip's NAME:WEIGHTS or local-dir:FOLDER, and a BLIP by its id at the hub or its folder.

    "mini" are those that ship, which know the drawn world and its digits alone. Raises ValueError as `load_clip` and
    `load_captioner` do.
    """
    named = [each for name in clips for each in (_mini(MINI_CLIPS) if name == "mini" else [name])]
    loaded = {}
    for name in named:
        with said(f"The CLIP {name}"):
            loaded[name.rpartition("/")[2] if name.startswith("local-dir:") else name] = named_clip(name, device)
    folder = str(WEIGHTS / MINI_CAPTIONER) if captioner == "mini" else captioner
    return Language(loaded, load_captioner(folder, device=device) if folder else None)


def _mini(names: Sequence[str]) -> list[str]:
    return [f"local-dir:{WEIGHTS / name}" for name in names]
