"""Examples of an evaluation: the worst answers of a run and some drawn at random, beside other systems'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from kikimimi.contracts.answer import answer_text
from kikimimi.contracts.metric import Metric, MetricItem, open_metric
from kikimimi.contracts.normaliser import Normaliser
from kikimimi.data.audio import encode_flac
from kikimimi.data.corpus import Corpus
from kikimimi.evaluation.asked import item_of
from kikimimi.evaluation.evaluate import written_system
from kikimimi.evaluation.predictions import PredictionLine, read_predictions, row_keys
from kikimimi.evaluation.score import normalised
from kikimimi.recipe import Evaluation
from kikimimi.report.report import Example, ExampleGroup
from kikimimi.run.folder import RunFolder

WORST, RANDOM = 5, 5
"""How many examples of each kind an evaluation shows."""
PLAYER_RATE = 16_000
"""Sampling rate of the clips in the report [Hz]."""


def run_examples(run: RunFolder, name: str) -> Iterator[ExampleGroup]:
    """Yield the worst answers of a run in an evaluation, by its metric, and some drawn from the others."""
    evaluation = run.recipe.evaluate[name]
    others = [written_system(run), *evaluation.cascades, *evaluation.baselines]
    paths = [run.evaluation(name) / f"{system}.jsonl" for system in (run.recipe.name, *others)]
    systems = {path.stem: read_predictions(path) for path in paths if path.is_file()}
    own = systems.get(run.recipe.name)
    if not own:
        return
    corpus = Corpus.open(name, evaluation)
    metric, normalise = open_metric(evaluation.metric.name, evaluation.normaliser, evaluation.metric.config)
    shown = _Shown(name, evaluation, corpus, metric, normalise, systems)
    rows = {key: row for row, key in enumerate(row_keys(corpus)) if key in own}
    values = dict(zip(rows, shown.values(rows, run.recipe.name), strict=True))
    known = {key: value for key, value in values.items() if value is not None}
    worse = 1 if metric.better == "lower" else -1
    best = min((worse * value for value in known.values()), default=0.0)
    best = min(best, 0.0) if metric.better == "lower" else best
    ranked = sorted(known, key=lambda key: (-worse * known[key], key))
    wrong = [key for key in ranked if worse * known[key] > best][:WORST]
    rest = [key for key in sorted(rows) if key not in wrong]
    drawn = sorted(Random(run.recipe.seed).sample(rest, min(RANDOM, len(rest))))
    label = evaluation.metric.name.rpartition(":")[2].upper()
    which = "highest" if metric.better == "lower" else "lowest"
    for title, note, keys in (
        (f"{name}: the worst", f"{which} {label} of {run.recipe.name}, of {len(rows)} clips", wrong),
        (f"{name}: drawn at random", f"from the other {len(rest)} clips", drawn),
    ):
        if keys:
            examples = [shown.example(rows[key], key) for key in keys]
            yield ExampleGroup(title=title, note=note, examples=examples)


@dataclass(frozen=True)
class _Shown:
    """An evaluation whose examples are shown, and what each system wrote."""

    name: str
    evaluation: Evaluation
    corpus: Corpus
    metric: Metric
    normalise: Normaliser
    systems: Mapping[str, Mapping[str, PredictionLine]]

    def values(self, rows: Mapping[str, int], system: str) -> Sequence[float | None]:
        """Return what each answer of a system alone would score; None where that is not known."""
        items = [self._item(row, key, system) for key, row in rows.items()]
        found = []
        for details in self.metric.recall(normalised(items, self.normalise)):
            try:
                found.append(None if details is None else self.metric.value(details))
            except ZeroDivisionError:
                found.append(None)
        return found

    def example(self, row: int, key: str) -> Example:
        """Return a row with what each system made of it."""
        record = self.corpus.shards.read(row)
        first = self.corpus.conversation(record).clips()[:1]
        clips = self.corpus.waveforms(record, first, PLAYER_RATE)
        audio = [encode_flac(clip.numpy(), PLAYER_RATE) for clip in clips]
        language = record.json.get("language")
        said = {system: lines[key] for system, lines in self.systems.items() if key in lines}
        items = normalised([self._item(row, key, system) for system in said], self.normalise)
        remarks = zip(said, self.metric.remarks(items), strict=True)
        return Example(
            evaluation=self.name,
            key=key,
            reference=next(iter(self.systems.values()))[key]["reference"],
            predictions={system: line["prediction"] for system, line in said.items()},
            normaliser=self.evaluation.normaliser,
            remarks={system: remark for system, remark in remarks if remark},
            audio=audio[0] if audio else None,
            language=language if isinstance(language, str) else None,
        )

    def _item(self, row: int, key: str, system: str) -> MetricItem:
        line = self.systems[system][key]
        said = answer_text(line["prediction"]).strip()
        return replace(item_of(self.corpus, row), reference=line["reference"].strip(), prediction=said)
