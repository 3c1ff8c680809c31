"""The licences of all that is installed here: how often each, and by name what is copyleft, not free or not said.

    make audit-deps

It tells; what to make of it is for people. Ends with exit status 1 where a package that xaikit itself declares, for
more than its tests, is strongly copyleft, not free or says nothing, and is not in `KNOWN`.
"""

import re
import sys
from collections import defaultdict
from importlib.metadata import Distribution, distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Kinds, in the order in which they are looked for in what a package says of itself.
KINDS = {
    "not free": r"proprietary|non-commercial|CC-BY-NC",
    "strong copyleft": r"(?<!L)A?GPL|(?<!Lesser )General Public",
    "weak copyleft": r"LGPL|Lesser General Public|MPL|Mozilla|EPL|Eclipse|CDDL|EUPL",
    "permissive": r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|Unlicense|Public Domain|HPND|Redistribution",
}
# Packages that say nothing in their metadata, or are declared in spite of their licence, with the reason.
KNOWN: dict[str, str] = {}


def said_licence(package: Distribution) -> str:
    """What a package says its licence is: by SPDX, its classifiers, a short text, or the first line of its own file."""
    about = package.metadata
    classifiers = [
        each.rpartition(" :: ")[2] for each in about.get_all("Classifier") or [] if each.startswith("License")
    ]
    free_text = (about.get("License") or "").strip()
    short = free_text.splitlines()[0] if free_text else ""
    said = about.get("License-Expression") or "; ".join(classifiers) or short
    if kind_of(said) == "unknown" and free_text:
        said = f"{short[:60]} … {'Redistribution' if 'redistribut' in free_text.lower() else ''}".strip()
    return said


def kind_of(licence: str) -> str:
    """Which of `KINDS` a licence is; an alternative ("MIT OR GPL-2.0") counts as what is freest in it."""
    order = list(KINDS)
    found = [
        next((kind for kind, pattern in KINDS.items() if re.search(pattern, part, re.IGNORECASE)), "unknown")
        for part in re.split(r"\bOR\b", licence)
    ]
    return max(found, key=lambda kind: order.index(kind) if kind in order else -1)


def declared() -> set[str]:
    """What xaikit needs in use, with its extras for notebooks and the papers' data."""
    needed = [Requirement(line) for line in requires("xaikit") or []]
    used = [each for each in needed if not each.marker or not re.search(r"extra == .test", str(each.marker))]
    return {canonicalize_name(each.name) for each in used}


def main() -> int:
    """Print the table and the names."""
    by_kind: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for package in sorted(distributions(), key=lambda each: each.name.lower()):
        licence = said_licence(package)
        by_kind[kind_of(licence)].append((package.name, licence or "says nothing"))
    for kind in (*KINDS, "unknown"):
        print(f"{len(by_kind[kind]):4d} {kind}")
        for name, licence in by_kind[kind] if kind != "permissive" else ():
            print(f"       {name}: {licence}{f' ({KNOWN[name]})' if name in KNOWN else ''}")
    bad = [
        name
        for kind in ("strong copyleft", "not free", "unknown")
        for name, _ in by_kind[kind]
        if canonicalize_name(name) in declared() and name not in KNOWN
    ]
    if bad:
        print(f"declared by xaikit in spite of its licence: {', '.join(bad)}", file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
