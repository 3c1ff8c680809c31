"""Audit a classifier of one's own: which cues does it use, on which pictures, and how sure is that?

`load_classifier` and `read_pictures` take what a user has, `audit` asks, and `Audit.save` writes the page. Changes of
pictures (`changes`), the questions (`questions`) and what is measured beside them (`measures`, `maps`, `readings`,
`mends`) are plain functions of tensors.
"""

from xaikit.audit.auditing import audit
from xaikit.audit.concepts import read_concepts
from xaikit.audit.language import Language, load_language
from xaikit.audit.load import Loaded, load_classifier
from xaikit.audit.photographs import Pictures, read_pictures
from xaikit.audit.questions import Concept, Seen

__all__ = [
    "Concept",
    "Language",
    "Loaded",
    "Pictures",
    "Seen",
    "audit",
    "load_classifier",
    "load_language",
    "read_concepts",
    "read_pictures",
]
