"""An evaluation that is to be run: its data, its references, and what predictions depend on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kikimimi.contracts.answer import Answer
from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.metric import MetricItem, Score, open_metric
from kikimimi.data.corpus import Corpus
from kikimimi.errors import RequestError
from kikimimi.evaluation.breakdown import FIELDS, groups_of
from kikimimi.evaluation.predictions import Identity, Predictions, row_keys
from kikimimi.evaluation.score import score_items
from kikimimi.recipe.show import plain
from kikimimi.run.folder import RunFolder

if TYPE_CHECKING:
    from kikimimi.recipe import Chosen, Evaluation, Recipe


@dataclass(frozen=True)
class AskedEvaluation:
    """An evaluation that is to be run.

    Attributes:
        name: Its name.
        evaluation: Its settings.
        recipe: The recipe that it is of.
        folder: Where its predictions go.
        corpus: The data.
        keys: What predictions call each row.
        items: What is right in each row and what was asked; as yet without predictions.
        groups: What each row belongs to, by name of a field: what scores are broken down by.
        drawn: What each row belongs to where the interval draws groups; None where it draws rows.
    """

    name: str
    evaluation: Evaluation
    recipe: Recipe
    folder: Path
    corpus: Corpus
    keys: list[str]
    items: list[MetricItem]
    groups: dict[str, list[str]]
    drawn: list[str] | None

    @classmethod
    def open(cls, run: RunFolder, name: str) -> AskedEvaluation:
        """Open the data of an evaluation of a run's recipe.

        Raises:
            RequestError: The data is missing, or lacks a field that is asked for; the metric does not take
                the references.
            DataError: A record cannot be used.
        """
        evaluation = run.recipe.evaluate[name]
        corpus = Corpus.open(name, evaluation)
        with _told_of(f"evaluate.{name}"):
            items, groups = _read(corpus, evaluation)
            drawn = None
            if evaluation.interval_by is not None:
                drawn = groups_of(corpus, [item.meta for item in items], evaluation.interval_by)
        asked = cls(
            name,
            evaluation,
            run.recipe,
            run.evaluation(name),
            corpus,
            row_keys(corpus),
            items,
            groups,
            drawn,
        )
        with _told_of(f"evaluate.{name}"):
            asked._try_references()
        return asked

    @property
    def references(self) -> list[str]:
        """What is right in each row."""
        return [item.reference for item in self.items]

    @property
    def precision(self) -> str:
        """Number format of computing."""
        return self.recipe.precision_of(self.evaluation)

    def identity(self, weights: str, **more: Any) -> dict[str, Any]:
        """Return what the predictions of a model depend on."""
        generate = self.evaluation.generate
        drawn = {"seed": self.recipe.seed} if generate.temperature > 0 else {}
        said = {"generate": plain(generate), "precision": self.precision, **drawn}
        return {"weights": weights, **self._of_data(), **said, **more}

    def baseline_identity(self, chosen: Chosen) -> dict[str, Any]:
        """Return what the predictions of a baseline depend on."""
        return {"weights": f"{chosen.name} {chosen.component.identity(chosen.config)}", **self._of_data()}

    def _of_data(self) -> dict[str, Any]:
        return {"data": self.corpus.shards.digest, "task": plain(self.evaluation.task)}

    def predictions(self, system: str, identity: Identity, *, begin: bool = True) -> Predictions:
        """Return what a system said of these rows, and no others."""
        return Predictions(self.folder / f"{system}.jsonl", identity, self.keys, begin=begin)

    def missing(self, predictions: Predictions) -> list[int]:
        """Return the rows that a system has not answered yet."""
        return [row for row, key in enumerate(self.keys) if key not in predictions.texts]

    def answered(self, texts: Sequence[str]) -> list[MetricItem]:
        """Return the items with answers, one for each row.

        White space at the ends is nobody's word: it goes from both sides, whichever system wrote it.
        """
        return [
            replace(
                item,
                reference=item.reference.strip(),
                prediction=text.stripped if isinstance(text, Answer) else text.strip(),
            )
            for item, text in zip(self.items, texts, strict=True)
        ]

    def score(self, texts: Sequence[str]) -> Score:
        """Score answers, one for each row."""
        metric = self.evaluation.metric
        return score_items(
            self.answered(texts),
            metric=metric.name,
            normaliser=self.evaluation.normaliser,
            config=metric.config,
            groups=self.drawn,
            interval_by=self.evaluation.interval_by,
        )

    def _try_references(self) -> None:
        """Find out before the work what the metric cannot take."""
        metric, normalise = open_metric(
            self.evaluation.metric.name, self.evaluation.normaliser, self.evaluation.metric.config
        )
        references = [normalise(item.reference.strip()) for item in self.items]
        items = [
            replace(item, reference=reference, prediction=reference)
            for item, reference in zip(self.items, references, strict=True)
        ]
        try:
            usable = metric.try_references(items)
        except ValueError as error:
            raise RequestError(f"metric '{self.evaluation.metric.name}': {error}") from error
        if not usable:
            raise RequestError(
                f"nothing to score: all {len(references)} references are empty after normaliser "
                f"'{self.evaluation.normaliser}'"
            )


def _read(corpus: Corpus, evaluation: Evaluation) -> tuple[list[MetricItem], dict[str, list[str]]]:
    """Return what each row asks, and what scores are broken down by."""
    items = []
    for row in range(len(corpus.shards)):
        items.append(item_of(corpus, row))
    metas = [item.meta for item in items]
    wanted: list[str] = evaluation.groups if evaluation.groups is not None else list(FIELDS)
    optional = evaluation.groups is None
    found = {name: groups_of(corpus, metas, name, optional=optional) for name in wanted}
    return items, {name: groups for name, groups in found.items() if groups is not None}


def item_of(corpus: Corpus, row: int) -> MetricItem:
    """Return what is right in a row and what was asked, not yet normalised, and without an answer."""
    record = corpus.shards.read(row)
    conversation = corpus.conversation(record)
    return MetricItem(
        reference=conversation.reference(),
        prediction="",
        question=_question(conversation),
        meta={**record.json, **conversation.meta},
    )


def _question(conversation: Conversation) -> str:
    """Return in words what the last turn of the user says; empty where a clip's words are not known."""
    turns = [message for message in conversation.messages if message.role == "user"]
    said = [part.text for part in (turns[-1].parts if turns else ())]
    if None in said:
        return ""
    return "\n".join(text.strip() for text in said if text and text.strip())


@contextmanager
def _told_of(where: str) -> Iterator[None]:
    """Say before what is wrong with an evaluation which one it is."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from error
