"""``kikimimi score``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kikimimi.console.terminal import say, say_json
from kikimimi.console.words import counted

if TYPE_CHECKING:
    from kikimimi.evaluation.table_scores import TableScore, TableScores

_COUNTED = {
    "truncated": "ended because no more tokens were allowed",
    "looped": "a piece of text over and over",
    "thoughts": "not scored",
}


def score(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Tables in UTF-8: .csv, .tsv (no quoting), .jsonl or .parquet. Several are compared.",
            metavar="FILE...",
        ),
    ],
    reference: Annotated[str, typer.Option(help="Column that holds what was said.")],
    prediction: Annotated[
        list[str],
        typer.Option(help="Column that holds what a system wrote; again for more, which are compared."),
    ],
    normaliser: Annotated[
        str,
        typer.Option(
            help="What both sides go through first; 'kikimimi plugins' lists the normalisers. Several with "
            "commas between them: how much the choice matters."
        ),
    ],
    metric: Annotated[str, typer.Option(help="How they are compared: cer, wer or another metric.")] = "cer",
    metric_option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the metric, such as tokenize=char for bleu.", metavar="KEY=VALUE"),
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Column that holds what was asked, for a metric such as judge.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Column that tells rows apart where several files are compared. Default: order."),
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Column by whose values scores are broken down.")
    ] = None,
    interval_by: Annotated[
        str | None,
        typer.Option(help="Column, such as the speaker, whose groups the interval draws whole."),
    ] = None,
    bad_rows: Annotated[
        Literal["fail", "drop"],
        typer.Option(help="fail: a malformed row is an error. drop: leave such rows out, and count them."),
    ] = "fail",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score the predictions in tables against their references.

    An error rate is that of the corpus: all edits over the length of all references. Rows whose reference is
    empty after normalisation cannot be scored; they are left out and counted. Every score has its 95 %
    interval by the bootstrap, and each two systems are compared on the same draws of the rows they share.
    """
    from kikimimi.evaluation.table_scores import Wanted, score_tables

    config = None
    if metric_option:
        # Here, as reading recipes imports OmegaConf.
        from kikimimi.recipe.plugin_options import read_plugin_options

        config = read_plugin_options("metric", metric, metric_option)
    normalisers = list(dict.fromkeys(name.strip() for name in normaliser.split(",")))
    wanted = Wanted(
        reference=reference,
        predictions=list(dict.fromkeys(prediction)),
        question=question,
        key=key,
        interval_by=interval_by,
        by=list(dict.fromkeys(by or ())),
        metric=metric,
        config=config,
        normalisers=normalisers,
        drop=bad_rows == "drop",
    )
    found = score_tables(list(dict.fromkeys(files)), wanted)
    for table in found.tables:
        if table.malformed:
            say(f"the first malformed row: {table.malformed[0]}", error=True)
    if as_json:
        say_json(_json(found, wanted.drop))
    elif len(found.scores) == 1:
        _say_one(found, wanted.drop)
    else:
        _say_table(found)


def _json(found: TableScores, drop: bool) -> dict[str, Any]:
    malformed = {table.name: len(table.malformed) for table in found.tables}

    def one(score: TableScore) -> dict[str, Any]:
        dropped = {"malformed": malformed[score.system]} if drop else {}
        return {**score.score.to_json(), **({"by": score.parts} if score.parts else {}), **dropped}

    if len(found.scores) == 1:
        return one(found.scores[0])
    return {
        "scores": [{"system": score.system, **one(score)} for score in found.scores],
        "comparisons": [
            {"one": p.one, "other": p.other, "normaliser": p.normaliser, **p.comparison.to_json()}
            for p in found.pairs
        ],
        "missing": list(found.missing),
    }


def _say_one(found: TableScores, drop: bool) -> None:
    from kikimimi.contracts.registry import load

    result, malformed = found.scores[0].score, found.tables[0].malformed
    dropped = {"malformed": len(malformed)} if drop else {}
    labels = load("metric", result.metric).labels
    interval = [("95 %", f"{result.ends} (bootstrap{result.drawn})")] if result.interval else []
    rows = [
        (result.label, result.shown(form=".4f")),
        *interval,
        ("normaliser", f"{result.normaliser} {result.normaliser_hash}"),
        ("pairs", f"{result.count}"),
        ("skipped", f"{result.skipped} (reference empty after normalisation)"),
        *((name, f"{number} ({_COUNTED[name]})") for name, number in result.counts.items()),
        *((name, f"{count} (left out)") for name, count in dropped.items()),
        *((labels.get(name, name), f"{value}") for name, value in result.details.items()),
    ]
    for label, value in rows:
        say(f"{label:<14} {value}")
    if result.invalid:
        say(f"not valid: {result.invalid}", error=True)
    _say_parts(found.scores)


def _say_table(found: TableScores) -> None:
    from kikimimi.evaluation.print_scores import print_comparisons, print_scores

    normalisers = dict.fromkeys(one.score.normaliser for one in found.scores)
    scores = {
        name: {one.system: one.score for one in found.scores if one.score.normaliser == name}
        for name in normalisers
    }
    print_scores(scores)
    pairs = {
        name: {(pair.one, pair.other): pair.comparison for pair in found.pairs if pair.normaliser == name}
        for name in normalisers
    }
    print_comparisons(pairs, found.scores[0].score.unit)
    for table in found.tables:
        if table.malformed:
            say(f"{table.name}: {counted(len(table.malformed), 'malformed row')} left out")
    for said in found.missing:
        say(said)
    _say_parts(found.scores)


def _say_parts(scores: Sequence[TableScore]) -> None:
    from kikimimi.evaluation.print_scores import print_parts

    several = len({one.score.normaliser for one in scores}) > 1
    for field in scores[0].parts:
        rows = {
            f"{one.system}, {one.score.normaliser}" if several else one.system: one.parts[field]
            for one in scores
        }
        print_parts(field, rows)
