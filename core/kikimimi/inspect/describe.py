"""What a recipe's components are: where they come from, and how many parameters they have."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from kikimimi.contracts import registry
from kikimimi.contracts.component import LLMContext
from kikimimi.costs.shapes import shapes_only
from kikimimi.data.corpus import all_texts, training_corpora
from kikimimi.errors import RequestError, WeightsError
from kikimimi.model.assembly import assemble
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import count_parameters, source_problems
from kikimimi.recipe import Recipe, Train
from kikimimi.recipe.chosen import PARTS, Chosen


@dataclass(frozen=True)
class Description:
    """A component of a recipe.

    Attributes:
        kind: ``encoder``, ``adapter`` or ``llm``.
        name: Registered name.
        distribution: The pip distribution that registers it.
        version: The distribution's version.
        weights: Where its weights come from, or None for a component that is always trained from scratch.
        parameters: Number of parameters; None where it cannot be told.
        trainable: How many of them some stage trains; None where it cannot be told.
        problem: Why the counts are not exact, or not known; or None.
        unfilled: Why a stage would not begin: what no source fills and no stage trains.
        shape: Widths, and how many frames or tokens 10 s become, by name; empty where that is not known.
    """

    kind: str
    name: str
    distribution: str
    version: str
    weights: str | None
    parameters: int | None
    trainable: int | None
    problem: str | None
    unfilled: tuple[str, ...] = ()
    shape: Mapping[str, int] = field(default_factory=dict)


def describe(recipe: Recipe, assets: Path | None = None) -> list[Description]:
    """Describe the components; their parameters are counted on the meta device, without any weights.

    Sizes come from known shapes, from files on this machine and from the Hub's cache: nothing is fetched.
    """
    with shapes_only():
        unknown = _unknown(recipe, assets)
        problems: dict[str, str | None] = {**dict.fromkeys(PARTS), **unknown}
        if unknown:
            missing = " and ".join(unknown)
            problems["adapter"] = f"its size follows from that of the {missing}, which is not known"
        counted = _with_tiny(recipe, unknown) if unknown else recipe
        try:
            model = _on_meta(counted, assets, lambda: all_texts(training_corpora(recipe)))
        except RequestError as error:
            # The data is not there yet. A tokenizer of one character gives the sizes of everything but its
            # rows.
            if "llm" not in unknown:
                problems["llm"] = (
                    f"a lower bound, without the tokens that the training data will bring: {error}"
                )
            model = _on_meta(counted, assets, lambda: ["?"])
        counts, unfilled = count_parameters(model, counted), source_problems(model, counted)
        shapes = _shapes(model)
    descriptions = []
    for part in PARTS:
        chosen = getattr(recipe, part)
        plugin = registry.find(part, chosen.name)
        known = not unknown or part not in {*unknown, "adapter"}
        descriptions.append(
            Description(
                part,
                chosen.name,
                plugin.distribution,
                plugin.version,
                " + ".join(_sources(chosen)) or None,
                counts[part].total if known else None,
                counts[part].trainable if known else None,
                problems[part],
                () if part in unknown else tuple(unfilled.get(part, ())),
                shapes[part] if known else {},
            )
        )
    return descriptions


def _shapes(model: SpeechLM) -> dict[str, dict[str, int]]:
    frames = model.encoder.num_frames(10 * model.encoder.sample_rate)
    return {
        "encoder": {"width": model.encoder.dim, "frames of 10 s": frames},
        "adapter": {"tokens of 10 s": model.adapter.max_tokens(frames)},
        "llm": {"width": model.llm.dim},
    }


def _unknown(recipe: Recipe, assets: Path | None) -> dict[str, str]:
    """Return why the sizes of encoder and LLM cannot be told, of those that cannot."""
    found: dict[str, str] = {}
    for part in ("encoder", "llm"):
        chosen: Chosen = getattr(recipe, part)
        if set(_sources(chosen)) <= {"random"}:
            continue
        own = assets / part if assets is not None else None
        context = [LLMContext(texts=list, assets=own, measured=True)] if part == "llm" else []
        try:
            with torch.device("meta"):
                chosen.component(chosen.config, *context)
        except WeightsError as error:
            found[part] = str(error)
    return found


def _with_tiny(recipe: Recipe, parts: Collection[str]) -> Recipe:
    """Return a recipe that can be built: tiny in the parts whose sizes are not known, all of them trained."""
    chosen = {part: getattr(recipe, part) for part in parts}
    tiny = {part: replace(one, config=one.component.tiny_config(one.config)) for part, one in chosen.items()}
    stages = {
        name: replace(stage, train={p: Train() if p in parts else train for p, train in stage.train.items()})
        for name, stage in recipe.stages.items()
    }
    return replace(recipe, **tiny, stages=stages)


def _sources(chosen: Chosen) -> Iterator[str]:
    """Yield where a plugin's weights come from, and those of plugins nested in it."""
    yield from chosen.sources().values()
    for plugin in chosen.nested().values():
        yield from _sources(plugin)


def _on_meta(recipe: Recipe, assets: Path | None, texts: Callable[[], Iterable[str]]) -> SpeechLM:
    with torch.device("meta"):
        return assemble(recipe, texts=texts, assets=assets, load_weights=False, measured=True)


def as_comments(components: list[Description]) -> str:
    """Return one YAML comment line per component: the recipe that follows stays loadable."""
    rows: list[tuple[str, ...]] = [("part", "name", "distribution", "parameters", "trainable", "weights")]
    for item in components:
        bound = ">= " if item.problem else ""
        counts = (
            "?" if count is None else f"{bound}{count:,}" if count else "0"
            for count in (item.parameters, item.trainable)
        )
        distribution = f"{item.distribution} {item.version}"
        rows.append((item.kind, item.name, distribution, *counts, item.weights or "from scratch"))
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    # Figures stand to the right; what comes last is not filled up.
    form = "  ".join([f"{{:{side}{width}}}" for side, width in zip("<<<>>", widths, strict=True)] + ["{}"])
    lines = [f"# {form.format(*row)}" for row in rows]
    # YAML ends a comment at every character at which splitlines cuts.
    lines += [f"# {item.kind}: {line}" for item in components for line in (item.problem or "").splitlines()]
    lines += [f"# error: {' '.join(problem.split())}" for item in components for problem in item.unfilled]
    return "\n".join(lines)
