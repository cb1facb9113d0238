"""The model card of an export: README.md with metadata for the Hub, and the licences that go along."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kikimimi import __version__
from kikimimi.console.terminal import shortened, visible
from kikimimi.files.writing import writing
from kikimimi.published.licences import CARD, OTHER, Licence, together
from kikimimi.published.opening import HERE, library_of, opening
from kikimimi.published.provenance import (
    KnownScore,
    Provenance,
    Taught,
    data_words,
    language_words,
    licence_words,
)

_TEMPLATE = "---\n{{ card_data }}\n---\n\n{{ text }}"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$^=@:]|(?<=www)\.)")
_LONGEST = 300


@dataclass(frozen=True)
class WrittenShape:
    """What a card says of the shape that was written.

    Attributes:
        format: Name of the format.
        model_class: Name of transformers' class; None where it has none.
        placeholder: The token that stands for clips.
        notes: What is other there than in the run, a sentence each.
    """

    format: str
    model_class: str | None
    placeholder: str
    notes: Sequence[str]


def write_card(
    folder: Path,
    made: Provenance,
    shape: WrittenShape,
    *,
    repository: str | None = None,
    accepted: Sequence[str] = (),
) -> None:
    """Write README.md, and the licences of the parts as `licences/PART-FILE`.

    Args:
        folder: The export.
        made: What the model is made of.
        shape: How it was written.
        repository: Where it will be on the Hub; None where that is not known.
        accepted: What licences forbid, and whoever exports has stated to have the right to.

    Raises:
        WriteError: The system refuses.
    """
    from huggingface_hub import ModelCard

    licence = together(base.licence for base in made.bases)
    copied = list(_copy_licences(folder, made))
    if licence is not None and licence.link == "LICENSE.md":
        _write(folder / "LICENSE.md", "\n".join(_licence_text(made, copied)) + "\n")
    text = "\n".join(_text(made, shape, repository, accepted, copied))
    data: Any = _metadata(made, shape, licence)
    card = ModelCard.from_template(data, template_str=_TEMPLATE, text=text)
    _write(folder / CARD, card.content + "\n")


def _write(path: Path, text: str) -> None:
    with writing(path):
        path.write_text(text, encoding="utf-8")


def _metadata(made: Provenance, shape: WrittenShape, licence: Licence | None) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    bases = list(dict.fromkeys(base.hub_id for base in made.bases if base.hub_id is not None))
    stated: dict[str, Any] = {} if licence is None else {"license": licence.id}
    if licence is not None and licence.id == OTHER:
        stated |= {"license_name": visible(licence.name) or OTHER}
        stated |= {"license_link": visible(licence.link) or CARD}
    return ModelCardData(
        model_name=made.recipe.name,
        pipeline_tag="audio-text-to-text",
        library_name=library_of(shape.format),
        base_model=bases or None,
        datasets=list(dict.fromkeys(one.hub_id for one in made.data if one.hub_id is not None)) or None,
        language=made.languages or None,
        tags=["audio", "speech", "kikimimi"],
        eval_results=[_result(scored, EvalResult) for scored in made.scores] or None,
        **stated,
    )


def _result(scored: KnownScore, result_class: Any) -> Any:
    score, ends = scored.score, scored.ends
    name, metric, normaliser = map(visible, (scored.evaluation, score.metric, score.normaliser))
    given: dict[str, Any] = {"normaliser": normaliser, "utterances": score.count, "unit": score.unit}
    if ends is not None:
        given["confidence_interval_95"] = [round(end, 4) for end in ends]
    return result_class(
        task_type="automatic-speech-recognition" if scored.transcribes else "audio-text-to-text",
        dataset_type=name,
        dataset_name=name,
        metric_type=metric.rpartition(":")[2],
        metric_name=f"{metric.rpartition(':')[2].upper()} (normaliser {normaliser})",
        metric_value=round(score.value, 4),
        metric_args=given,
    )


def _text(
    made: Provenance,
    shape: WrittenShape,
    repository: str | None,
    accepted: Sequence[str],
    copied: Sequence[str],
) -> Iterator[str]:
    recipe = made.recipe
    yield f"# {code((repository or recipe.name).rpartition('/')[2])}\n"
    if any(base.licence.terms.begins for base in made.bases):
        yield "**Built with Llama.**\n"
    yield (
        f"A text LLM that hears: encoder {code(recipe.encoder.name)}, adapter {code(recipe.adapter.name)}, "
        f"LLM {code(recipe.llm.name)}, trained with kikimimi {__version__} by the recipe {code(recipe.name)} "
        f"and written as {code(shape.format)}. The recipe is in `lock.json`, with versions and hashes.\n"
    )
    yield "## Open it\n"
    requests = (
        getattr(recipe.stages[one.stage].data[one.name].task.config, "request", None) for one in made.data
    )
    request = next((one for one in requests if isinstance(one, str)), "Transcribe the audio.")
    for language, piece in opening(shape.format, shape.model_class, repository or HERE, request):
        yield fenced(language, piece)
    if repository is None and shape.model_class is not None:
        yield "`.` is this folder.\n"
    yield f"Prompts are those of the training; the token {code(shape.placeholder)} stands for a clip.\n"
    yield from (f"- {words(note)}" for note in shape.notes)
    yield "\n## What it is made of\n"
    rows = [[base.where, base.title, base.licence.title] for base in made.bases]
    yield from table(["part", "weights", "licence"], rows)
    yield (
        "Parts that are not listed began with random weights.\n"
        if rows
        else "All began with random weights.\n"
    )
    yield "## What was trained\n"
    yield from table(["stage", "steps", "trained", "objective"], _stages(made))
    if made.data:
        yield from table(["stage", "data", "task", "size", "languages", "licences"], map(_row, made.data))
    if not made.stages:
        yield "Nothing: it is a published model, written again.\n"
    yield "## Scores\n"
    if made.scores:
        yield from table(
            ["evaluation", "score", "95 % interval", "normaliser", "clips"], map(_scored, made.scores)
        )
        yield "Intervals: 1,000 bootstrap draws of whole utterances (percentiles).\n"
    else:
        yield "These weights were not scored.\n"
    yield "## Licences\n"
    yield from (f"- {words(warning)}" for warning in made.warnings() or ["No licence here forbids anything."])
    if copied:
        yield f"- Their texts: {', '.join(map(code, copied))}."
    if together(base.licence for base in made.bases) is None:
        yield "- No weights of others are in it. Whoever publishes it chooses its licence."
    yield from (
        "- Whoever exported it has stated (`--license-accepted`) to have the right to publish it. "
        + words(refusal)
        for refusal in accepted
    )


def _stages(made: Provenance) -> Iterator[list[str]]:
    for name, steps in made.stages.items():
        stage = made.recipe.stages[name]
        yield [name, "?" if steps is None else f"{steps:,}", ", ".join(stage.train), stage.objective.name]


def _row(one: Taught) -> list[str]:
    return [
        one.stage,
        one.hub_id or one.name,
        one.task,
        data_words(one),
        language_words(one),
        licence_words(one),
    ]


def _scored(one: KnownScore) -> list[str]:
    ends = "not known" if one.ends is None else " to ".join(one.score.shown(end) for end in one.ends)
    return [one.evaluation, str(one.score), ends, one.score.normaliser, f"{one.score.count:,}"]


def _copy_licences(folder: Path, made: Provenance) -> Iterator[str]:
    """Copy the licences' own texts; yield their names in the export."""
    held: dict[bytes, str] = {}
    for base in made.bases:
        for path in base.licence.files:
            content = path.read_bytes()
            if content not in held:
                held[content] = f"licences/{base.where}-{path.name}"
                target = folder / held[content]
                with writing(target):
                    target.parent.mkdir(exist_ok=True)
                    shutil.copyfile(path, target)
                yield held[content]


def _licence_text(made: Provenance, copied: Sequence[str]) -> Iterator[str]:
    yield "# Licences of its parts\n"
    rows = [[base.where, base.title, base.licence.title, base.licence.link] for base in made.bases]
    yield from table(["part", "weights", "licence", "text"], rows)
    yield from (f"- {code(name)}" for name in copied)


def code(text: str) -> str:
    """Return a text as a piece of code of Markdown, in which nothing has a meaning."""
    shown = shortened(visible(text), _LONGEST)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if fence != "`" or shown != shown.strip() else ""
    return f"{fence}{space}{shown}{space}{fence}" if shown else ""


def words(text: str) -> str:
    """Return a text as Markdown shows it, in which no character has a meaning."""
    return _SPECIAL.sub(r"\\\1", visible(text))


def fenced(language: str, text: str) -> str:
    """Return a block of code of Markdown."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table of texts; none without a row."""
    lines = ["| " + " | ".join(code(cell).replace("|", r"\|") for cell in row) + " |" for row in rows]
    if lines:
        yield "| " + " | ".join(heading) + " |"
        yield "|" + "---|" * len(heading)
        yield from lines
        yield ""
