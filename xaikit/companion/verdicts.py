"""The verdicts of a record in words, and as tables of claims and instruments for README and docs."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from xaikit.companion.claims import VERDICTS, Protocol


def shown(claim: Mapping[str, Any]) -> str:
    """What became of a claim, in a few words: "holds (6 of 6 runs)", "no-instrument", "fails, by construction"."""
    verdict, seeds = claim["verdict"], claim.get("seeds", {})
    if claim.get("by_construction"):
        return f"{verdict}, by construction"
    runs = sum(seeds.values())
    if verdict == "inconclusive" and len(seeds) > 1:
        return "inconclusive ({} of {} runs)".format(", ".join(f"{seeds[v]} {v}" for v in VERDICTS if v in seeds), runs)
    return f"{verdict} ({runs} of {runs} runs)" if runs > 1 else verdict


def claims_table(record: Mapping[str, Any]) -> str:
    """A row for each claim, a column for each protocol, in Markdown; in the order of the record."""
    protocols = [each for each in get_args(Protocol) if any(claim["protocol"] == each for claim in record["claims"])]
    rows: dict[str, dict[str, list[str]]] = {}
    for claim in record["claims"]:
        rows.setdefault(claim["text"], {}).setdefault(claim["protocol"], []).append(shown(claim))
    cells = [
        [text.removesuffix("."), *("; ".join(dict.fromkeys(found.get(each, ["–"]))) for each in protocols)]
        for text, found in rows.items()
    ]
    return _table(["claim", *(each.replace("-", " ") for each in protocols)], cells)


def instruments_table(record: Mapping[str, Any]) -> str:
    """A row for each instrument, in Markdown: what it measures, when it is trusted, whether it passes."""
    cells = [
        [f"`{each['id']}`", each["what"], each["rule"], "passes" if each["passes"] else f"fails: {each['why']}"]
        for each in record["instruments"]
    ]
    return _table(["instrument", "measures", "is trusted if", "here"], cells)


def summary_table(records: Sequence[Mapping[str, Any]]) -> str:
    """A row for each notebook that decides claims, in Markdown: instruments that pass, and claims by verdict.

    What holds by construction is counted apart.
    """
    rows = []
    for record in records:
        if not record["claims"]:
            continue
        reached = [claim["verdict"] for claim in record["claims"] if not claim.get("by_construction")]
        passing = sum(each["passes"] for each in record["instruments"])
        counts = [*map(reached.count, VERDICTS), len(record["claims"]) - len(reached)]
        rows.append([f"`{record['notebook']}`", f"{passing} of {len(record['instruments'])}", *map(str, counts)])
    return _table(["notebook", "instruments that pass", *VERDICTS, "by construction"], rows)


def evaluation_table(records: Sequence[Mapping[str, Any]]) -> str:
    """What a reviewer of the artefact sees, in Markdown: a row for each item of a notebook that claims are made of.

    With the command that decides them, the minutes (at least 1) that it took where the record was made, and verdicts.
    """
    rows = []
    for record in records:
        own = "" if record["profile"] == "mini" else f" PROFILE={record['profile']}"
        by_item: dict[str, list[str]] = {each["item"]: [] for each in record["shown"].values()}
        for claim in record["claims"]:
            flag = " by construction" if claim.get("by_construction") else ""
            by_item.setdefault(claim["item"], []).append(claim["verdict"] + flag)
        command, minutes = f"`make {record['notebook']}{own}`", f"{max(1, round(record['seconds'] / 60))}"
        for item, reached in by_item.items():
            if reached:
                expected = ", ".join(f"{reached.count(each)} {each}" for each in dict.fromkeys(sorted(reached)))
                rows.append([item, str(len(reached)), command, minutes, expected])
    return _table(["figure or table", "claims", "command", "minutes", "expected"], rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, in whose cells a bar is none."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
