"""As many pictures at once as there is memory for, with the same answers."""

import pytest
import torch
from torch import Tensor, nn

from xaikit.audit.batches import at_once, in_batches, with_memory
from xaikit.audit.maps import maps_of
from xaikit.audit.questions import Concept, Seen, classify, effects, removals


class Small(nn.Module):
    """A classifier that has memory for so many pictures at once."""

    def __init__(self, room: int, error: type[Exception] = torch.OutOfMemoryError, said: str = "out of memory") -> None:
        super().__init__()
        self.room, self.error, self.said, self.seen = room, error, said, []
        self.layer = nn.Conv2d(3, 2, 32)

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.room:
            raise self.error(self.said)
        return self.layer(images)[:, :, 0, 0]


def pictures(count: int = 50) -> Seen:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)
    masks = torch.zeros(count, 32, 32, dtype=torch.bool)
    masks[:, 8:20, 8:20] = True
    return Seen(pixels, {"object": masks})


def both(room: int) -> tuple[Small, Small]:
    torch.manual_seed(0)
    wide, narrow = Small(10**6), Small(room)
    narrow.load_state_dict(wide.state_dict())
    return wide, narrow


def test_a_larger_picture_is_one_of_fewer() -> None:
    model = nn.Identity()
    assert [at_once(model, (side, side)) for side in (32, 224, 448, 5000)] == [64, 8, 2, 1]
    assert at_once(model, (224, 224), "cuda") == 32 * at_once(model, (224, 224))


def test_what_is_too_much_is_halved_and_what_fits_is_kept() -> None:
    wide, narrow = both(9)
    seen = pictures()
    torch.testing.assert_close(classify(wide, seen), classify(narrow, seen), rtol=1e-5, atol=1e-5)
    assert narrow.seen == [50, 25, 12, *[6] * 8, 2] and at_once(narrow, seen.sides) == 6 and wide.seen == [50]
    narrow.seen.clear()
    classify(narrow, seen)
    assert max(narrow.seen) == 6


def test_effects_removals_and_maps_do_not_depend_on_the_memory() -> None:
    seen = pictures()
    concepts = [Concept("background", "background", "object"), Concept("word", "text", text="A")]
    found = []
    for model in both(5):
        answers = classify(model, seen).argmax(1)
        asked = effects(model, seen, concepts, answers=answers) + removals(model, seen, answers=answers)
        found.append([asked, *(maps_of(model, seen, answers, range(6), gradients=how).maps for how in (True, False))])
    for first, second in zip(found[0][0], found[1][0], strict=True):
        assert (first.flips == second.flips).all() and first.flips.any()
        assert all((first.controls[name] == second.controls[name]).all() for name in first.controls)
    for first, second in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


def test_where_one_picture_is_too_much_it_is_said_and_other_errors_are_not_mended() -> None:
    with pytest.raises(RuntimeError, match=r"the memory for one picture.*--device cpu"):
        classify(Small(0), pictures(3))
    cudnn = Small(1, RuntimeError, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
    assert len(classify(cudnn, pictures(3))) == 3
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        classify(Small(1, RuntimeError, "shapes do not fit"), pictures(3))


def test_parts_come_in_their_order_and_what_cannot_be_split_is_done_anew() -> None:
    assert in_batches(lambda rows: rows.tolist(), 5, nn.Identity(), (32, 32), batch=2) == [[0, 1], [2, 3], [4]]
    tried: list[int] = []

    def work(size: int) -> int:
        tried.append(size)
        if size > 20:
            raise torch.OutOfMemoryError
        return size

    model = nn.Identity()
    assert with_memory(work, model, (32, 32)) == 16 == with_memory(work, model, (32, 32))
    assert tried == [64, 32, 16, 16]
