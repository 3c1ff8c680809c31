"""All places that scenes are set in: how each is painted, and how captions put it."""

from xaikit.world.built import BUILT
from xaikit.world.nature import NATURE, Place

PLACES: dict[str, Place] = {**NATURE, **BUILT}
# The plainest phrase comes first: prompts use it.
PHRASES: dict[str, tuple[str, ...]] = {
    "sea": ("on the sea", "on the ocean", "at the sea"),
    "lake": ("on the lake", "at the lake"),
    "forest": ("in the forest", "in the woods", "among trees"),
    "meadow": ("in the meadow", "on the grass"),
    "sky": ("in the sky", "in the air", "among clouds"),
    "desert": ("in the desert", "on the sand"),
    "savanna": ("in the savanna", "on dry grass"),
    "flower bed": ("in a flower bed", "among flowers"),
    "jungle": ("in the jungle", "among palms"),
    "reef": ("at a reef", "under water"),
    "farm": ("on a farm", "in a field"),
    "country road": ("on a country road", "in the country"),
    "road": ("on the road", "on a wide road"),
    "street": ("in the street", "in the city"),
    "showroom": ("in a showroom", "in a bright hall"),
    "living room": ("in a living room", "by a sofa"),
    "stage": ("on a stage", "in a theatre"),
    "kitchen": ("in a kitchen", "by a stove"),
    "hospital": ("in a hospital", "in a clinic"),
    "construction site": ("at a construction site", "by a crane"),
    "burning house": ("at a burning house", "by a fire"),
    "courtroom": ("in a courtroom", "at court"),
    "garage": ("in a garage", "in a workshop"),
    "airport": ("at an airport", "by a plane"),
    "restaurant": ("in a restaurant", "among tables"),
}
