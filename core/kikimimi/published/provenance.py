"""What a run's model is made of: weights of others and data, with their licences; stages; and its scores."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kikimimi.console.terminal import shortened
from kikimimi.console.words import hours, listing
from kikimimi.contracts.answer import Answer
from kikimimi.contracts.metric import Score, open_metric
from kikimimi.data.shards.record import UNNAMED
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import KikimimiError, RequestError, WeightsError
from kikimimi.evaluation.bootstrap import interval
from kikimimi.evaluation.predictions import held_identity, read_predictions
from kikimimi.evaluation.record import as_scored, read_scorings
from kikimimi.evaluation.score import score
from kikimimi.published.licences import UNSTATED, Licence, licence_of, spelling
from kikimimi.recipe import IMPORTED, Recipe
from kikimimi.recipe.chosen import PARTS, Chosen
from kikimimi.run.folder import RunFolder
from kikimimi.run.lock import held_lock
from kikimimi.run.metrics import by_stage, read_metrics
from kikimimi.weights.find import find_weights, hub_id

_LONGEST = 120
_FILES = (".safetensors", ".gguf", ".bin")
_CACHED = re.compile(r"models--([\w.-]+)--([\w.-]+)", re.ASCII)
_ON_HUB = re.compile(
    r"(?:hf://|https://huggingface\.co/)datasets/([\w-][\w.-]*/[\w.-]+?)(?:@[^/]*)?/", re.ASCII
)


@dataclass(frozen=True)
class Base:
    """Weights that a part starts from.

    Attributes:
        where: The option that names them: ``encoder.weights``.
        source: How the recipe names them.
        hub_id: Their repository on the Hub; None where they are not known to be of one.
        licence: What they say of their licence.
    """

    where: str
    source: str
    hub_id: str | None
    licence: Licence

    @property
    def title(self) -> str:
        """What a card calls them: no path of a machine."""
        if self.hub_id is not None or self.source.startswith("package:"):
            return self.hub_id or self.source
        path = Path(self.source.partition("@")[0])
        if path.suffix in _FILES:
            return f"{path.name} in a folder called {path.parent.name}"
        return f"a folder called {path.name}"


@dataclass(frozen=True)
class Taught:
    """A dataset that a stage was trained on.

    Attributes:
        stage: The stage.
        name: The dataset's name in the recipe.
        task: What is asked of its records.
        hub_id: Its repository on the Hub, where the recipe reads it from there.
        seconds: Its audio [s]; None where its indexes cannot be read now.
        records: Its records.
        languages: Audio by language [s], as the records name them.
        licences: Records by licence, as they name them.
        changed: Whether the indexes have changed since the training began.
    """

    stage: str
    name: str
    task: str
    hub_id: str | None
    seconds: float | None = None
    records: int = 0
    languages: dict[str, float] | None = None
    licences: dict[str, int] | None = None
    changed: bool = False


@dataclass(frozen=True)
class KnownScore:
    """A score of the very weights that are exported.

    Attributes:
        evaluation: The evaluation's name.
        transcribes: Whether its task asks for transcripts.
        score: The score.
        ends: Ends of its 95 % interval; None where the predictions are not at hand any more.
    """

    evaluation: str
    transcribes: bool
    score: Score
    ends: tuple[float, float] | None


@dataclass(frozen=True)
class Provenance:
    """What a model is made of.

    Attributes:
        recipe: Its recipe.
        stages: The stages that led to it, in order, and how many steps each took (None: not known).
        bases: Weights of others.
        data: What it was trained on.
        scores: What it scored.
    """

    recipe: Recipe
    stages: dict[str, int | None]
    bases: tuple[Base, ...]
    data: tuple[Taught, ...]
    scores: tuple[KnownScore, ...]

    @classmethod
    def of(cls, run: RunFolder, stage: str | None) -> Provenance:
        """Gather what is known of a run's model as a stage left it; of large files nothing is read.

        Raises:
            RunError: Nothing was trained yet, or there is no such stage.
            DamagedError: A file of the run is damaged.
        """
        recipe, reached = run.recipe, run.newest_weights(stage)[0]
        chain = [reached] if reached != IMPORTED else []
        while chain and (before := recipe.start_of(chain[0])) not in (None, IMPORTED):
            assert before is not None
            chain.insert(0, before)
        lines = by_stage(read_metrics(run.metrics)) if run.metrics.is_file() else {}
        steps = {name: max((line["step"] for line in lines.get(name, ())), default=None) for name in chain}
        locked = (held_lock(run) or {}).get("data", {})
        data = [_taught(recipe, name, key, locked) for name in chain for key in recipe.stages[name].data]
        return cls(recipe, steps, tuple(_bases(recipe)), tuple(data), tuple(_scores(run, reached)))

    def warnings(self) -> list[str]:
        """Return what licences forbid, and ask, and of what none is known: one sentence each."""
        found = []
        for licence, whose in self._licences():
            terms = licence.terms
            if terms.forbids:
                found.append(f"The licence {licence.title} of {whose} forbids {' and '.join(terms.forbids)}.")
            elif licence.id == UNSTATED:
                found.append(f"The licence of {whose} is not known: nothing there states it.")
            elif not terms.known:
                read = f" ({licence.link})" if licence.link else ""
                found.append(
                    f"What the licence {licence.title} of {whose} allows is not known here: read it{read}."
                )
            found += [f"The licence {licence.title} of {whose} asks: {ask}" for ask in terms.asks]
        return found

    def refusals(self, repository: str | None) -> list[str]:
        """Return why it is not published without a right of one's own: one sentence each.

        Args:
            repository: Where it is to be published, ``ORG/NAME``; None where that is not asked.
        """
        found = []
        for licence, whose in self._licences():
            terms = licence.terms
            if terms.shut:
                forbidden = " and ".join(terms.forbids)
                found.append(f"The licence {licence.title} of {whose} forbids {forbidden}.")
            called = (repository or "").rpartition("/")[2].replace("-", " ").replace("_", " ").lower()
            if repository is not None and not called.startswith(terms.begins.lower()):
                found.append(
                    f"The licence {licence.title} of {whose} asks that the name of the model begins with "
                    f"{terms.begins!r}, and {repository!r} does not."
                )
        return found

    def _licences(self) -> Iterator[tuple[Licence, str]]:
        """Yield each licence, and what is under it, in words."""
        owners: dict[Licence, list[str]] = {}
        for base in self.bases:
            owners.setdefault(base.licence, []).append(f"{base.where} ({base.title})")
        for taught in self.data:
            for name in taught.licences or {}:
                licence = Licence() if name == UNNAMED else Licence(shortened(spelling(name), _LONGEST))
                owners.setdefault(licence, []).append(f"data '{taught.name}'")
        for licence, whose in owners.items():
            yield licence, ", ".join(dict.fromkeys(whose))

    @property
    def languages(self) -> list[str]:
        """Languages of the data, the one with the most audio first, as ISO 639 codes; others are left out."""
        heard: Counter[str] = Counter()
        for taught in self.data:
            for name, seconds in (taught.languages or {}).items():
                code = re.split("[-_]", name.strip().lower())[0]
                if re.fullmatch("[a-z]{2,3}", code, re.ASCII):
                    heard[code] += 1 + int(seconds)
        return [code for code, _ in heard.most_common()]


def _bases(recipe: Recipe) -> Iterator[Base]:
    for part in PARTS:
        chosen: Chosen = getattr(recipe, part)
        for where, one in {
            "": chosen,
            **{f".{key}": inner for key, inner in chosen.nested().items()},
        }.items():
            named = one.sources()
            if tokenizer := getattr(one.config, "tokenizer", None):
                named = {**named, "tokenizer": tokenizer}
            for option, source in named.items():
                if source not in (None, "random"):
                    yield Base(f"{part}{where}.{option}", source, hub_name(source), licence_of(source))


def hub_name(source: str) -> str | None:
    """Return the repository that a source is, or that a folder says it is a copy of."""
    if (named := hub_id(source)) is not None:
        return named[0]
    if source.startswith("package:"):
        return None
    if cached := _CACHED.search(str(Path(source.partition("@")[0]).expanduser().absolute())):
        return f"{cached[1]}/{cached[2]}"
    try:
        files = find_weights(source.partition("@sha256:")[0])
        said = files.read_json("config.json").get("_name_or_path") if files is not None else None
    except WeightsError:
        return None
    named = hub_id(said) if isinstance(said, str) else None
    return None if named is None else named[0]


def _taught(recipe: Recipe, stage: str, key: str, locked: dict[str, str | None]) -> Taught:
    dataset = recipe.stages[stage].data[key]
    on_hub = _ON_HUB.match(dataset.shards)
    named = (stage, key, dataset.task.name, on_hub[1] if on_hub else None)
    try:
        shards = Shards(key, dataset.shards)
    except KikimimiError:
        return Taught(*named)
    names, counts = [*shards.license_names, UNNAMED], Counter(shards.licenses.tolist())
    spoken: dict[str, float] = {}
    for position, name in enumerate(shards.language_names):
        spoken[name] = float(shards.seconds[shards.languages == position].sum(dtype=float))
    before = locked.get(f"stages.{stage}.data.{key}")
    return Taught(
        *named,
        seconds=float(shards.seconds.sum(dtype=float)),
        records=len(shards),
        languages=dict(sorted(spoken.items(), key=lambda item: -item[1])),
        licences={names[place]: count for place, count in counts.most_common()},  # -1: the last, `UNNAMED`
        changed=before is not None and before != shards.digest,
    )


def _scores(run: RunFolder, stage: str) -> Iterator[KnownScore]:
    """Yield the newest score of these weights in each evaluation."""
    identity, run = run.weights_identity(stage), as_scored(run)
    for name, evaluation in run.recipe.evaluate.items():
        record = read_scorings(run.evaluation(name))
        systems = record[-1]["systems"] if record else {}
        for system, one in systems.items():
            held = one["predictions"]
            if isinstance(held, dict) and held.get("weights") == identity:
                found = Score.from_json(one["score"])
                path = run.evaluation(name) / f"{system}.jsonl"
                transcribes = bool(getattr(evaluation.task.component, "transcribes", False))
                ends = _ends(path, held, found, evaluation.metric)
                yield KnownScore(name, transcribes, found, ends)
                break


def _ends(path: Path, identity: object, found: Score, chosen: Chosen) -> tuple[float, float] | None:
    """Return the interval of a score from the predictions that gave it; None where those are gone."""
    if not path.is_file() or held_identity(path) != identity:
        return None
    lines = read_predictions(path).values()
    try:
        again = score(
            [line["reference"].strip() for line in lines],
            [Answer(line["prediction"], cut=line.get("cut")).stripped for line in lines],
            metric=found.metric,
            normaliser=found.normaliser,
            config=chosen.config,
        )
    except RequestError:
        return None
    if abs(again.value - found.value) > 1e-6:
        return None
    return interval(open_metric(found.metric, found.normaliser, chosen.config)[0], again.utterances)


def data_words(taught: Taught) -> str:
    """Return what a dataset holds, for people."""
    if taught.seconds is None:
        return "not at hand when this was written"
    changed = ", by indexes that have changed since the training began" if taught.changed else ""
    return f"{taught.records:,} records, {hours(taught.seconds)}{changed}"


def language_words(taught: Taught) -> str:
    """Return a dataset's languages, for people."""
    return listing(taught.languages or {}) if taught.languages else "not stated"


def licence_words(taught: Taught) -> str:
    """Return the licences of a dataset's records, for people."""
    return ", ".join(f"{name}: {count:,}" for name, count in (taught.licences or {}).items()) or "not stated"
