"""The list of checks, and running them."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kikimimi.console.words import listing, nearest
from kikimimi.contracts.component import LLM, Adapter, Component, Encoder
from kikimimi.contracts.metric import Metric
from kikimimi.contracts.objective import Objective
from kikimimi.contracts.task import Task
from kikimimi.testing import (
    adapter_checks,
    batch_checks,
    build_checks,
    config_checks,
    encoder_checks,
    import_check,
    llm_checks,
    metric_checks,
    objective_checks,
    rendering_checks,
    saving_checks,
    task_checks,
    training_checks,
)
from kikimimi.testing.contract import ContractError
from kikimimi.testing.objective_subject import ObjectiveSubject
from kikimimi.testing.subject import Tested
from kikimimi.testing.task_subject import TaskSubject

Function = Callable[[Any], None]

FOR_ALL: tuple[Function, ...] = (
    config_checks.config_is_a_frozen_dataclass,
    config_checks.config_has_defaults,
    config_checks.config_is_documented,
    config_checks.config_survives_yaml,
    config_checks.tiny_config_is_a_config,
    import_check.import_is_quiet,
    build_checks.builds_tiny,
    build_checks.builds_without_network,
    build_checks.builds_on_meta,
    build_checks.builds_the_same_from_a_seed,
    build_checks.shard_classes_are_modules,
    build_checks.pretrained_names_are_parameters,
    batch_checks.repeating_changes_nothing,
    batch_checks.batch_changes_nothing,
    training_checks.gradients_reach_every_parameter,
    training_checks.gradients_stay_out_of_frozen_parameters,
    training_checks.a_step_lowers_the_loss,
    training_checks.bf16_runs,
    training_checks.dtype_and_device_are_kept,
    saving_checks.state_dict_restores,
    saving_checks.checkpoint_restores,
    saving_checks.deepcopy_keeps,
    saving_checks.pickle_keeps,
)
FOR_PADDED: tuple[Function, ...] = (
    batch_checks.input_is_left_alone,
    batch_checks.padding_changes_nothing,
    batch_checks.padding_changes_no_gradient,
)
FOR_ENCODERS: tuple[Function, ...] = (
    encoder_checks.num_frames_is_exact,
    encoder_checks.frame_rate_is_true,
    encoder_checks.any_clip_works,
    encoder_checks.longest_clip_works,
    encoder_checks.taps_divide_the_width,
    encoder_checks.augmentation_is_for_training,
)
FOR_ADAPTERS: tuple[Function, ...] = (
    adapter_checks.lengths_keep_max_tokens,
    adapter_checks.losses_are_scalars,
    adapter_checks.gradients_pass_to_the_frames,
    adapter_checks.transcripts_change_no_tokens,
    adapter_checks.several_taps_are_taken_or_refused,
    adapter_checks.assets_restore,
)
FOR_LLMS: tuple[Function, ...] = (
    llm_checks.embeddings_have_the_width,
    llm_checks.select_picks_positions,
    llm_checks.attention_is_causal,
    llm_checks.gradients_pass_to_the_embeddings,
    llm_checks.generation_follows_forward,
    llm_checks.generation_in_a_batch_is_the_same,
    llm_checks.vocabulary_spells,
    rendering_checks.slots_are_the_clips,
    rendering_checks.loss_covers_the_answers,
    rendering_checks.spans_tell_who_says_what,
    rendering_checks.training_continues_the_prompt,
    rendering_checks.text_is_never_control,
    llm_checks.assets_restore,
)

FOR_TASKS: tuple[Function, ...] = (
    config_checks.config_is_a_frozen_dataclass,
    config_checks.config_has_defaults,
    config_checks.config_is_documented,
    config_checks.config_survives_yaml,
    import_check.import_is_light,
    task_checks.conversation_ends_in_an_answer,
    task_checks.audio_parts_are_the_clips,
    task_checks.the_same_draw_is_the_same,
    task_checks.without_draw_the_first_is_asked,
    task_checks.question_is_of_one_clip,
    task_checks.phrasings_are_all_it_adds,
    task_checks.a_missing_field_is_named,
    task_checks.odd_fields_are_refused,
    task_checks.pickling_keeps_it,
)

FOR_OBJECTIVES: tuple[Function, ...] = (
    config_checks.config_is_a_frozen_dataclass,
    config_checks.config_has_defaults,
    config_checks.config_is_documented,
    config_checks.config_survives_yaml,
    import_check.import_is_quiet,
    objective_checks.asks_for_what_there_is,
    objective_checks.loss_is_a_scalar,
    objective_checks.gradients_reach_what_it_says,
    objective_checks.again_is_the_same,
    objective_checks.order_changes_nothing,
    objective_checks.text_alone_is_taken,
    objective_checks.unknown_words_are_taken_or_refused,
    objective_checks.measures_and_counts_are_plain,
    objective_checks.model_is_left_as_it_was,
    objective_checks.validation_runs,
    objective_checks.half_precision_runs,
    objective_checks.pickling_keeps_it,
)

FOR_METRICS: tuple[Function, ...] = (
    config_checks.config_is_a_frozen_dataclass,
    config_checks.config_has_defaults,
    config_checks.config_is_documented,
    config_checks.config_survives_yaml,
    import_check.import_is_light,
    metric_checks.states_unit_and_direction,
    metric_checks.a_perfect_answer_is_best,
    metric_checks.again_is_the_same,
    metric_checks.order_changes_nothing,
    metric_checks.value_comes_from_details,
    metric_checks.empty_references_are_taken_or_left_out,
    metric_checks.odd_texts_are_taken_or_refused,
)

_KINDS: dict[
    str,
    tuple[type[Component | Task | Objective | Metric], type[Tested], tuple[Function, ...]],
] = {
    "encoder": (Encoder, encoder_checks.EncoderSubject, (*FOR_ALL, *FOR_PADDED, *FOR_ENCODERS)),
    "adapter": (Adapter, adapter_checks.AdapterSubject, (*FOR_ALL, *FOR_PADDED, *FOR_ADAPTERS)),
    "llm": (LLM, llm_checks.LLMSubject, (*FOR_ALL, *FOR_LLMS)),
    "objective": (Objective, ObjectiveSubject, FOR_OBJECTIVES),
    "task": (Task, TaskSubject, FOR_TASKS),
    "metric": (Metric, metric_checks.MetricSubject, FOR_METRICS),
}


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check.

    Attributes:
        name: The check's name.
        error: What was expected and what was found, or None where the check passed.
    """

    name: str
    error: str | None


@dataclass(frozen=True)
class Check:
    """One check of one component, ready to be called.

    Attributes:
        name: The check's name.
        function: Raises a `ContractError` where the contract is broken.
        subject: The component under test.
    """

    name: str
    function: Function
    subject: Tested

    def __call__(self) -> None:
        """Run the check; the same numbers are drawn each time, and the caller's generator is left alone.

        Raises:
            ContractError: The contract is broken.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.function(self.subject)

    def result(self) -> CheckResult:
        """Run the check and say how it went."""
        try:
            self()
        except ContractError as error:
            return CheckResult(self.name, str(error))
        except Exception as error:  # noqa: BLE001 - whatever a third party's component raises
            last = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {error} (raised in {last.filename}:{last.lineno})"
            return CheckResult(self.name, said)
        return CheckResult(self.name, None)


def list_checks(kind: str, component: type[Any], config: Any = None) -> list[Check]:
    """Return the checks of a component.

    Args:
        kind: ``encoder``, ``adapter``, ``llm``, ``objective``, ``task`` or ``metric``.
        component: Its class.
        config: The config whose tiny variant is checked (that of an objective, a task or a metric as
            it is); None for the defaults.

    Raises:
        ValueError: There are no checks for that kind.
    """
    if kind not in _KINDS:
        raise ValueError(
            f"there are no checks for the kind '{kind}'.{nearest(kind, _KINDS)} Kinds: {listing(_KINDS)}"
        )
    _, subject_class, functions = _KINDS[kind]
    subject = subject_class(component, config)
    return [Check(function.__name__, function, subject) for function in functions]


def run_checks(kind: str, component: type[Any], config: Any = None) -> list[CheckResult]:
    """Check a component against the contract of its kind.

    Args:
        kind: ``encoder``, ``adapter``, ``llm``, ``objective``, ``task`` or ``metric``.
        component: Its class.
        config: The config whose tiny variant is checked (that of an objective, a task or a metric as
            it is); None for the defaults.

    Raises:
        ValueError: There are no checks for that kind.
    """
    return [check.result() for check in list_checks(kind, component, config)]


def kind_of_component(component: type[Any]) -> str:
    """Return the kind of a component's class.

    Raises:
        TypeError: It is of none that has checks.
    """
    for kind, (base, _, _) in _KINDS.items():
        if isinstance(component, type) and issubclass(component, base):
            return kind
    bases = " or ".join(f"kikimimi.{base.__name__}" for base, _, _ in _KINDS.values())
    raise TypeError(f"{component!r} is no subclass of {bases}")
