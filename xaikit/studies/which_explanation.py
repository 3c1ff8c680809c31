"""Notebook 05: which explanation tells what a classifier uses? Methods are asked about a zoo whose answers are known.

`asked` gives every method every classifier that it can say something about; `Board` compares what they say with what
redrawing has shown, and with what can be said without a look at the model.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from xaikit.companion.profiles import Settings
from xaikit.importance.interface import METHODS, Classifier, Concepts, Method, scores_of
from xaikit.metrics.intervals import Interval, over_runs
from xaikit.metrics.ranking import auc
from xaikit.models import clip_vit_mini
from xaikit.models.captioner import LanguageModel
from xaikit.models.captioner import load_from as load_captioner_from
from xaikit.models.clip import load_from
from xaikit.storage import keys
from xaikit.storage.cache import fetch
from xaikit.storage.seeding import rng, seed_for
from xaikit.storage.side_by_side import fetch_all
from xaikit.studies.caption_driven_tied import answer_relevance
from xaikit.studies.texplain import Explainer, learned_translators
from xaikit.studies.texplain_pictures import Captioned
from xaikit.studies.zoo import Member, Spec, Truth, classifier_of, training_pictures
from xaikit.studies.zoo_tasks import TASKS, Pictures, deal
from xaikit.texplain.translator import Features, Translator

LEARNED = ("trained", "unlearned", "head")  # of the makes, those that have learned their answers
# Methods in words that say something of each picture; the words of a class direction and B2T say one thing of them all.
IN_WORDS = ("words of TExplain", "captions of the pictures")


# --- asking -----------------------------------------------------------------------------------------------------------


def asked(
    cfg: Settings, members: Mapping[str, Member], methods: Mapping[str, Method] | None = None, *, kept: bool = True
) -> pd.DataFrame:
    """What each method says: a row a method, classifier and factor, with its `importance`, `seconds` and `queries`.

    `by_picture` has what it says of each picture, whose mean the importance is; None where it says one thing of all.
    Methods are asked side by side, each about the classifiers of one task and kind; what was asked before is read from
    the cache, unless it is not to be `kept`: a method that is in no module is asked in this process. `seconds` and
    `queries`, the images that the classifier was shown, are those of one classifier.
    """
    methods = METHODS if methods is None else methods
    evidence = {task: _captions_of(cfg, task) for task in dict.fromkeys(m.spec.task for m in members.values())}
    translators = _translators(cfg, members) if any(each.paper == 2 for each in methods.values()) else {}
    groups: dict[tuple[str, str], list[Member]] = {}
    for member in members.values():
        groups.setdefault((member.spec.task, member.spec.kind), []).append(member)
    jobs = {
        f"{name}: {task}, {kind}": {
            "method": name, "code": keys.code_of(method.importance) if kept else "",
            "specs": [member.spec for member in some],
            "states": [member.state for member in some], "captions": evidence[task],
            "translators": [translators[member.spec.name] for member in some] if method.paper == 2 else [],
            "settings": {key: cfg[key] for key in ("explained", "sentences", "learned_from", "seed")}
            | {key: cfg[key].as_dict() for key in ("clip", "clip_resnet", "captioner", "sampling")},
            "device": cfg.device,
        }
        for (task, kind), some in groups.items()
        for name, method in methods.items()
    }  # fmt: skip
    rows = []
    if kept:
        found = fetch_all(_asked, jobs, label="asking methods", device=cfg.device)
    else:
        found = {name: _asked(**job) for name, job in tqdm(jobs.items(), desc="asking methods")}
    for (name, result), job in zip(found.items(), jobs.values(), strict=True):
        for which, said in zip(result["which"], result["said"], strict=True):
            spec = job["specs"][which]
            for factor, values in zip(TASKS[spec.task].names, said.T, strict=True):
                rows.append({"method": name.partition(":")[0], "classifier": spec.name, "task": spec.task,
                             "kind": spec.kind, "made": spec.make, "factor": factor, "importance": values.mean(),
                             "by_picture": values if values.ndim else None,
                             "seconds": result["seconds"], "queries": result["queries"]})  # fmt: skip
    return pd.DataFrame(rows)


def _asked(
    method: str,
    code: str,
    specs: Sequence[Spec],
    states: Sequence[Mapping[str, Tensor]],
    captions: Sequence[Sequence[str]],
    translators: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    """What the method of that name and of that `code` says of the classifiers of one task and kind."""
    del code  # so that what another code has said is not read
    of = METHODS[method]
    clip = load_from(settings["clip"], device)
    pictures, images, concepts = evidence_of(specs[0].task, settings, captions, clip, device)
    said, which, seconds, queries = [], [], [], []
    for row, (spec, state) in enumerate(zip(specs, states, strict=True)):
        classifier = classifier_of(spec.kind, state, clip, device)
        known = training_pictures(spec, settings["learned_from"], settings["seed"])
        tools = dict(concepts.tools)
        if translators:
            tools["sentences"] = _Sentences(classifier, translators[row], settings, device)
        own = Concepts(**{**vars(concepts), "learned_from": known, "tools": tools})
        if not of.applies(classifier, own):
            continue
        shown: list[int] = []
        handle = classifier.model.register_forward_pre_hook(lambda _, inputs, seen=shown: seen.append(len(inputs[0])))
        start = time.perf_counter()
        try:
            said.append(scores_of(of, classifier, images, own))
        finally:
            handle.remove()
        seconds.append(time.perf_counter() - start)
        queries.append(sum(shown))
        which.append(row)
    return {
        "said": torch.stack(said).numpy() if said else np.zeros((0, len(pictures.task.names))), "which": which,
        "seconds": float(np.mean(seconds)) if seconds else 0.0, "queries": float(np.mean(queries)) if queries else 0.0,
    }  # fmt: skip


def evidence_of(
    task: str, settings: Mapping[str, Any], captions: Sequence[Sequence[str]], clip: Any, device: str
) -> tuple[Pictures, Tensor, Concepts]:
    """What a method is given of a task: pictures in which all factors are independent, and what is known of them."""
    pictures = deal(TASKS[task], settings["explained"], settings["seed"], "explained")
    factors, images = pictures.task.factors, pictures.images().to(device)

    def redraw(rows: Tensor, which: Tensor) -> Tensor:
        return pictures[rows.numpy()].redrawn(which.numpy()).images().to(device)

    tools = {"clip": clip, "captions": captions, "answer_relevance": answer_relevance}
    if task == "digits":
        tools["clip_resnet"] = load_from(settings["clip_resnet"], device)
    concepts = Concepts(
        pictures.task.names, torch.from_numpy(pictures.codes.copy()), pictures.masks(),
        tuple(factor.texts for factor in factors), tuple(factor.words for factor in factors),
        (pictures.labels, torch.from_numpy(pictures.codes.copy())), redraw, tools, settings["seed"],
    )  # fmt: skip
    return pictures, images, concepts


@dataclass(frozen=True, eq=False)
class _Sentences:
    """The tool "sentences" for one classifier: what its translator makes of tokens."""

    classifier: Classifier
    state: Mapping[str, Any]
    settings: Mapping[str, Any]
    device: str

    def __call__(self, tokens: Tensor, n: int | None = None) -> list[list[str]]:
        language = load_captioner_from(self.settings["captioner"], self.device).language
        arguments = {"tokens": tokens.shape[1], "width": tokens.shape[2], "to_width": language.width}
        translator = Translator(**arguments).to(self.device).eval()
        translator.load_state_dict(dict(self.state))
        of = Explainer(Features(self.classifier.model, self.classifier.layer), translator, language,
                       self.settings["sampling"])  # fmt: skip
        n = n or self.settings["sentences"]
        return of.texts(tokens.cpu(), n, seed_for(self.settings["seed"], "zoo", "sentences"))


def _captions_of(cfg: Settings, task: str) -> list[list[str]]:
    """Sentences of the captioner for the pictures that methods are given."""
    made = fetch(_captions, task=task, explained=cfg.explained, captions=cfg.captions, seed=cfg.seed,
                 captioner=cfg.captioner.as_dict(), sampling=cfg.sampling.as_dict(), device=cfg.device)  # fmt: skip
    return made["texts"]


def _captions(
    task: str,
    explained: int,
    captions: int,
    seed: int,
    captioner: Mapping[str, Any],
    sampling: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    loaded = load_captioner_from(captioner, device)
    images = deal(TASKS[task], explained, seed, "explained").images().to(device)
    with torch.no_grad():
        tokens = torch.cat([loaded.image_encoder(part) for part in images.split(50)])
    of = Explainer(torch.nn.Identity(), torch.nn.Identity(), loaded.language, sampling)
    return {"texts": of.texts(tokens.cpu(), captions, seed_for(seed, "zoo", "captions"))}


def _translators(cfg: Settings, members: Mapping[str, Member]) -> dict[str, dict[str, Tensor]]:
    """The weights of a translator for each classifier, all trained on the same pictures of the captioner's corpus."""
    language: LanguageModel = load_captioner_from(cfg.captioner, cfg.device).language
    found = {}
    for task in dict.fromkeys(member.spec.task for member in members.values()):
        family = {"digits": "nine"}.get(task, task)  # the captioner knows no digits
        corpus = clip_vit_mini.corpus()[family][: cfg.pairs]
        pairs = Captioned(corpus.images(64), clip_vit_mini.captions(family, corpus))
        features = {
            name: Features(member.classifier.model, member.classifier.layer)
            for name, member in members.items()
            if member.spec.task == task
        }
        learned = learned_translators(features, pairs, language, cfg.translator, dict.fromkeys(features, cfg.seed),
                                      cfg.device)  # fmt: skip
        found |= {name: dict(each.translator.state_dict()) for name, each in learned.items()}
    return found


# --- scoring ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Board:
    """What methods say (`said`, of `asked`) beside what classifiers do (`known`), and the scores that follow.

    A factor is used where it flips more than `uses` of the answers, and ignored where it flips less than `ignores`; two
    shares of flips are `apart` where they differ by more. Every score is taken within each task and then over tasks:
    tasks are what differs, and they are few.
    """

    said: pd.DataFrame
    known: Mapping[str, Truth]
    specs: Mapping[str, Spec]
    uses: float
    ignores: float
    apart: float

    @cached_property
    def rows(self) -> pd.DataFrame:
        """`said` with the share of answers that each factor flips, and whether it is the class itself."""
        flips = {(name, factor): truth.share(factor) for name, truth in self.known.items() for factor in truth.flips}
        rows = self.said.copy()
        rows["flips"] = [flips[pair] for pair in zip(rows.classifier, rows.factor, strict=True)]
        rows["is_class"] = [TASKS[task].names[0] == factor for task, factor in zip(rows.task, rows.factor, strict=True)]
        return rows

    def table(self) -> pd.DataFrame:
        """The share of answers that each factor of each classifier flips, and what every method says, a column each."""
        names = ["classifier", "factor", "flips"]
        table = self.rows.pivot(index=names, columns="method", values="importance")[self.methods]
        return table.loc[list(self.rows[names].drop_duplicates().itertuples(index=False, name=None))].reset_index()

    @cached_property
    def methods(self) -> list[str]:
        """Those that said something, in the order in which they were asked."""
        return list(dict.fromkeys(self.said.method))

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """Rank correlation of importance and flips over the factors of each classifier that has learned something.

        It is `somers_d`: where a method gives all factors the same it says nothing, 0. Classifiers none of whose
        factors are apart have no order to be found, and are left out.
        """
        rows = self.rows[self.rows.made.isin(LEARNED)]
        found = []
        for (method, task, kind, name), own in rows.groupby(["method", "task", "kind", "classifier"], sort=False):
            if np.ptp(own.flips) > self.apart:
                value = somers_d(own.importance, own.flips, self.apart)
                found.append({"method": method, "task": task, "kind": kind, "classifier": name, "rank": value})
        return pd.DataFrame(found)

    def within(self, method: str) -> dict[str, float]:
        """The mean of `ranks` by task."""
        own = self.ranks[self.ranks.method == method]
        return {str(task): float(value) for task, value in own.groupby("task", sort=False)["rank"].mean().items()}

    def across(self, method: str) -> dict[str, float]:
        """Rank correlation over the classifiers of a task, of each factor that some use and some do not, by task."""
        found: dict[str, list[float]] = {}
        own = self.rows[(self.rows.method == method) & ~self.rows.is_class]
        for (task, _), each in own.groupby(["task", "factor"], sort=False):
            if each.flips.max() > self.uses and each.flips.min() < self.ignores and len(each) >= 5:
                found.setdefault(str(task), []).append(somers_d(each.importance, each.flips, self.apart))
        return {task: float(np.mean(values)) for task, values in found.items()}

    def uses_it(self, method: str) -> dict[str, float]:
        """AUC of "uses this factor" over classifiers and factors other than the class, by task."""
        found = {}
        for task, own in self._clear(method).groupby("task", sort=False):
            if own.used.nunique() == 2:
                found[str(task)] = float(auc(own.importance.to_numpy(), own.used.to_numpy()))
        return found

    def _clear(self, method: str) -> pd.DataFrame:
        """Where a factor other than the class is clearly used or clearly ignored."""
        own = self.rows[(self.rows.method == method) & ~self.rows.is_class]
        own = own[(own.flips > self.uses) | (own.flips < self.ignores)]
        return own.assign(used=own.flips > self.uses)

    def alarms(self, method: str) -> dict[str, dict[str, float]]:
        """Hits and false alarms by task, at the threshold that is best for the classifiers of all other tasks.

        "hits": of the factors that are used; "alarms": of those that are ignored, by classifiers that were not trained
        ("untrained"), have learned labels at random ("shuffled"), a cue that they ignore ("unlearned") or had none
        ("unbiased").
        """
        clear, found = self._clear(method), {}
        for task in dict.fromkeys(clear.task):
            others, own = clear[clear.task != task], clear[clear.task == task]
            if others.used.nunique() < 2:
                continue
            above = own.importance > _threshold(others.importance.to_numpy(), others.used.to_numpy())
            unbiased = own.classifier.map(lambda name: self.specs[name].make == "trained" and not
                                          self.specs[name].agreement)  # fmt: skip
            groups = {made: own.made == made for made in ("untrained", "shuffled", "unlearned")}
            groups["unbiased"] = unbiased
            ignored = ~own.used
            rates = {"hits": above[own.used], "all": above[ignored]}
            rates |= {f"alarms, {made}": above[ignored & which] for made, which in groups.items()}
            found[str(task)] = {name: float(each.mean()) for name, each in rates.items() if len(each)}
        return found

    def strength(self, method: str) -> dict[str, float]:
        """Rank correlation of a shortcut's importance with its strength in training, by task; none counts as 0.5."""
        found: dict[str, list[float]] = {}
        rows = self.rows[self.rows.method == method]
        for (task, _), own in rows.groupby(["task", "kind"], sort=False):
            for shortcut in TASKS[str(task)].shortcuts:
                points = [
                    (dict(self.specs[name].agreement).get(shortcut, 0.5), value)
                    for name, value in own[own.factor == shortcut][["classifier", "importance"]].itertuples(index=False)
                    if self.specs[name].make == "trained" and len(self.specs[name].agreement) <= 1
                    and self.specs[name].shortcut in ("", shortcut)
                ]  # fmt: skip
                if len({strength for strength, _ in points}) >= 3:
                    strengths, values = zip(*points, strict=True)
                    found.setdefault(str(task), []).append(somers_d(values, strengths))
        return {task: float(np.mean(values)) for task, values in found.items()}

    def heads(self, method: str) -> dict[str, float]:
        """How often a factor has more importance in the head that tells it than in another one on the same backbone."""
        found: dict[str, list[float]] = {}
        own = self.rows[(self.rows.method == method) & (self.rows.made == "head")]
        for task, of in own.groupby("task", sort=False):
            table = of.pivot(index="classifier", columns="factor", values="importance")
            reads = {self.specs[name].reads: name for name in table.index}
            for first in reads:
                for second in reads:
                    if first != second:
                        apart = table.loc[reads[first], first] - table.loc[reads[second], first]
                        found.setdefault(str(task), []).append(float(apart > 0) + 0.5 * float(apart == 0))
        return {task: float(np.mean(values)) for task, values in found.items()}

    def beyond_nulls(self, method: str) -> tuple[str, dict[str, float]]:
        """The null that is best on the classifiers of this method, and by task how much better the method is there."""
        own = self.ranks[self.ranks.method == method].set_index("classifier")
        best, least = "", -np.inf
        for null in (name for name in self.methods if METHODS[name].form == "null" and name != method):
            theirs = self.ranks[self.ranks.method == null].set_index("classifier")["rank"].reindex(own.index)
            mean = theirs.groupby(own.task).mean().mean()
            if mean > least:
                best, least = null, mean
        theirs = self.ranks[self.ranks.method == best].set_index("classifier")["rank"].reindex(own.index)
        apart = (own["rank"] - theirs).groupby(own.task, sort=False).mean()
        return best, {str(task): float(value) for task, value in apart.items()}

    def by_chance(self, draws: int, seed: int) -> tuple[dict[str, float], dict[str, float]]:
        """The rank and the AUC of numbers at random, new ones for each classifier, by task: the means of some draws."""
        some = self.rows[self.rows.method == self.methods[0]]
        found = []
        for number in range(draws):
            values = rng(seed, "zoo", "chance", number).random(len(some))
            board = replace(self, said=some.drop(columns=["flips", "is_class"]).assign(importance=values))
            found.append((board.within(self.methods[0]), board.uses_it(self.methods[0])))
        ranks, aucs = (pd.DataFrame([each[which] for each in found]).mean().to_dict() for which in (0, 1))
        return ranks, aucs

    def group(self, name: str) -> str:
        """What a classifier did with the cues of its data: the groups of `by_group`."""
        spec, known = self.specs[name], self.known[name]
        if spec.make == "head":
            return "one of several heads"
        if spec.make == "unlearned" or not spec.agreement:
            return "a cue that training broke" if spec.agreement else "no cue"
        if len(spec.agreement) > 1:
            return "two cues"
        share = known.share(spec.shortcut)
        return (
            "a cue, used" if share > self.uses else "a cue, ignored" if share < self.ignores else "a cue, hardly used"
        )

    def by_group(self) -> pd.DataFrame:
        """The mean of `ranks` of each method by `group`, and how many classifiers that are."""
        ranks = self.ranks.assign(group=[self.group(name) for name in self.ranks.classifier])
        table = ranks.pivot_table("rank", "method", "group", sort=False).reindex(self.methods)
        counts = ranks.groupby("group").classifier.nunique()
        return table.rename(columns={group: f"{group} ({counts[group]})" for group in table})

    def agreement(self) -> pd.DataFrame:
        """How alike methods are: the mean, over classifiers, of the rank correlation of what two of them say."""
        wide = self.rows[self.rows.made.isin(LEARNED)].pivot(
            index=["classifier", "factor"], columns="method", values="importance"
        )
        ranked = wide.groupby("classifier").rank()
        ranked = ranked - ranked.groupby("classifier").transform("mean")
        return ranked.corr().reindex(index=self.methods, columns=self.methods)


def in_words(said: pd.DataFrame) -> pd.DataFrame:
    """What the methods `IN_WORDS` say of each picture (of `asked`): a row a method, classifier and factor.

    The columns behind these are the pictures; their mean is the importance, but for two decimals. Factors that have
    no words are left out, and of a null, which says the same of all classifiers of a task, all but the first of these.
    """
    worded = {(task.name, each.name) for task in TASKS.values() for each in task.factors if any(each.words)}
    rows = said[said.method.isin(IN_WORDS)]
    rows = rows[[pair in worded for pair in zip(rows.task, rows.factor, strict=True)]]
    null = rows.method.map(lambda name: METHODS[name].form == "null")
    rows = rows[~(null & rows.duplicated(["method", "task", "factor"]))]
    names, pictures = ["method", "classifier", "factor"], np.stack(list(rows.by_picture)).round(2)
    return pd.concat([rows[names].reset_index(drop=True), pd.DataFrame(pictures)], axis=1)


def over_tasks(by_task: Mapping[str, float]) -> Interval | None:
    """The mean over tasks with Student's t interval; None for fewer than three, whose spread cannot be seen."""
    return over_runs(list(by_task.values())) if len(by_task) >= 3 else None


def somers_d(said: Any, true: Any, apart: float = 0.0) -> float:
    """Pairs that are told in the right order less those in the wrong one, as a share of those truly `apart`.

    A pair that is said to be equal counts as neither; of pairs that are not apart nothing is asked. (Spearman's
    coefficient would reward a method for exact ties among what does not matter, as a table of the data has them, and
    punish one that measures.) 0 where no pair is apart.
    Source: Somers (1962).
    """
    said, true = np.asarray(said, float), np.asarray(true, float)
    difference = true[:, None] - true
    told = difference > apart
    return float(np.sign(said[:, None] - said)[told].mean()) if told.any() else 0.0


def _threshold(values: np.ndarray, used: np.ndarray) -> float:
    """Where the share of hits is most above that of false alarms; in the middle between two values."""
    order = np.argsort(values)
    values, used = values[order], used[order]
    missed = np.concatenate([[0], np.cumsum(used) / used.sum()])
    spared = np.concatenate([[0], np.cumsum(~used) / (~used).sum()])
    edges = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    possible = np.concatenate([[True], values[1:] > values[:-1], [True]])
    gain = np.where(possible, spared - missed, -np.inf)
    return float(edges[int(gain.argmax())])


# --- for the notebook -------------------------------------------------------------------------------------------------


def apart_by_heads(known: Mapping[str, Truth], specs: Mapping[str, Spec]) -> dict[str, float]:
    """By task: how many more answers a factor flips of the head that tells it than of others on the same backbone."""
    found = {}
    for task in dict.fromkeys(spec.task for spec in specs.values()):
        heads = {spec.reads: known[name] for name, spec in specs.items() if spec.make == "head" and spec.task == task}
        apart = [
            truth.share(reads) - other.share(reads)
            for reads, truth in heads.items()
            for others, other in heads.items()
            if others != reads
        ]
        if apart:
            found[task] = float(np.mean(apart))
    return found


def row(board: Board, name: str, best: str, beyond: Mapping[str, float]) -> dict[str, Any]:
    """A row of the leaderboard: the scores of one method, and what it costs."""
    method, own = METHODS[name], board.said[board.said.method == name]
    rank, apart = over_tasks(board.within(name)), over_tasks(beyond)
    rank = None if rank is None else rank.within(-1.0, 1.0)
    costs = own.groupby("classifier")[["queries", "seconds"]].first().mean()
    rates = pd.DataFrame(board.alarms(name)).mean(axis=1)
    ends = {} if rank is None else {"rank low": rank.low, "rank high": rank.high}
    more = {} if apart is None else {"beyond low": apart.low, "beyond high": apart.high}
    by_score = {"across": board.across(name), "AUC": board.uses_it(name), "strength": board.strength(name),
                "heads": board.heads(name)}  # fmt: skip
    return {
        "method": name, "form": method.form, "classifiers": own.classifier.nunique(),
        "rank": _mean(board.within(name)), **ends,
        "best null": best, "beyond it": _mean(beyond), **more,
        **{score: _mean(by_task) for score, by_task in by_score.items()},
        "hits": rates.get("hits", np.nan), "false alarms": rates.get("all", np.nan),
        "queries": costs["queries"], "seconds": float(f"{costs['seconds']:.1g}"),
    }  # fmt: skip


def _mean(by_task: Mapping[str, float]) -> float:
    return float(np.mean(list(by_task.values()))) if by_task else np.nan


def alarm_rates(alarms: Mapping[str, Mapping[str, Mapping[str, float]]]) -> pd.DataFrame:
    """Hits and false alarms of each method, the mean over tasks, the furthest apart first."""
    rates = pd.DataFrame({name: pd.DataFrame(each).mean(axis=1) for name, each in alarms.items() if each}).T
    rates = rates.reindex(columns=["hits", "all", *(each for each in rates if each not in ("hits", "all"))])
    order = (rates["hits"] - rates["all"]).sort_values(ascending=False, kind="stable").index
    return rates.reindex(order)


def disagreed(board: Board, count: int) -> list[str]:
    """The classifiers of which methods that see the model say the most different things, at most two of a task."""
    some = board.ranks[[METHODS[name].form not in ("null", "ceiling") for name in board.ranks.method]]
    spread = some.groupby(["task", "classifier"])["rank"].std().sort_values(ascending=False, kind="stable")
    found: list[str] = []
    taken: dict[str, int] = {}
    for task, name in spread.index:
        if len(found) < count and taken.get(task, 0) < 2:
            found.append(name)
            taken[task] = taken.get(task, 0) + 1
    return found
