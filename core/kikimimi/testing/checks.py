"""The list of checks, running them, and the checks as pytest tests."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import isfunction
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from kikimimi.console.words import listing, nearest
from kikimimi.contracts.component import LLM, Adapter, Encoder
from kikimimi.contracts.judge import Judge
from kikimimi.contracts.layout import Layout
from kikimimi.contracts.metric import Metric
from kikimimi.contracts.normaliser import Normaliser
from kikimimi.contracts.objective import Objective
from kikimimi.contracts.plugin_import import place_in
from kikimimi.contracts.recogniser import Recogniser
from kikimimi.contracts.task import Task
from kikimimi.contracts.voice import Voice
from kikimimi.errors import MissingExtraError
from kikimimi.testing import (
    adapter_checks,
    component_checks,
    config_checks,
    encoder_checks,
    generation_checks,
    import_check,
    judge_checks,
    layout_checks,
    llm_checks,
    metric_checks,
    normaliser_checks,
    number_checks,
    objective_checks,
    recogniser_checks,
    task_checks,
    voice_checks,
)
from kikimimi.testing.subject import ContractError, NotTriedError, PaddedSubject, Subject, Tested

if TYPE_CHECKING:
    import pytest

Function = Callable[[Any], None]


def _checks(module: ModuleType, subject: type[Tested]) -> tuple[Function, ...]:
    """Return a module's checks, in order: the functions whose one argument is a `subject` of that class."""
    takes = {"subject": subject.__name__, "return": "None"}
    return tuple(
        item
        for name, item in vars(module).items()
        if isfunction(item)
        and item.__module__ == module.__name__
        and not name.startswith("_")
        and {key: getattr(held, "__name__", str(held)) for key, held in item.__annotations__.items()} == takes
    )


_CONFIG = _checks(config_checks, Tested)
FOR_ALL = (
    *_CONFIG,
    config_checks.tiny_config_is_a_config,
    config_checks.two_configs_stay_two,
    import_check.import_is_quiet,
    *_checks(component_checks, Subject),
    *_checks(number_checks, Subject),
)
FOR_PADDED = (*_checks(component_checks, PaddedSubject), *_checks(number_checks, PaddedSubject))
FOR_ENCODERS = _checks(encoder_checks, encoder_checks.EncoderSubject)
FOR_ADAPTERS = _checks(adapter_checks, adapter_checks.AdapterSubject)
FOR_LLMS = (
    *_checks(llm_checks, llm_checks.LLMSubject),
    *_checks(generation_checks, llm_checks.LLMSubject),
)
FOR_TASKS = (*_CONFIG, import_check.import_is_light, *_checks(task_checks, task_checks.TaskSubject))
FOR_OBJECTIVES = (
    *_CONFIG,
    import_check.import_is_quiet,
    *_checks(objective_checks, objective_checks.ObjectiveSubject),
)
FOR_METRICS = (*_CONFIG, import_check.import_is_light, *_checks(metric_checks, metric_checks.MetricSubject))
FOR_LAYOUTS = (*_CONFIG, import_check.import_is_light, *_checks(layout_checks, layout_checks.LayoutSubject))
FOR_VOICES = (*_CONFIG, import_check.import_is_quiet, *_checks(voice_checks, voice_checks.VoiceSubject))
FOR_NORMALISERS = (
    import_check.import_is_light,
    *_checks(normaliser_checks, normaliser_checks.NormaliserSubject),
)
FOR_RECOGNISERS = (
    *(check for check in _CONFIG if check is not config_checks.config_has_defaults),
    import_check.import_is_quiet,
    *_checks(recogniser_checks, recogniser_checks.RecogniserSubject),
)
FOR_JUDGES = (
    *(check for check in _CONFIG if check is not config_checks.config_has_defaults),
    import_check.import_is_quiet,
    *_checks(judge_checks, judge_checks.JudgeSubject),
)

_Base = type[Any]
_KINDS: dict[str, tuple[_Base, type[Tested], tuple[Function, ...]]] = {
    "encoder": (Encoder, encoder_checks.EncoderSubject, (*FOR_ALL, *FOR_PADDED, *FOR_ENCODERS)),
    "adapter": (Adapter, adapter_checks.AdapterSubject, (*FOR_ALL, *FOR_PADDED, *FOR_ADAPTERS)),
    "llm": (LLM, llm_checks.LLMSubject, (*FOR_ALL, *FOR_LLMS)),
    "objective": (Objective, objective_checks.ObjectiveSubject, FOR_OBJECTIVES),
    "task": (Task, task_checks.TaskSubject, FOR_TASKS),
    "metric": (Metric, metric_checks.MetricSubject, FOR_METRICS),
    "layout": (Layout, layout_checks.LayoutSubject, FOR_LAYOUTS),
    "voice": (Voice, voice_checks.VoiceSubject, FOR_VOICES),
    "normaliser": (Normaliser, normaliser_checks.NormaliserSubject, FOR_NORMALISERS),
    "recogniser": (Recogniser, recogniser_checks.RecogniserSubject, FOR_RECOGNISERS),
    "judge": (Judge, judge_checks.JudgeSubject, FOR_JUDGES),
}


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check.

    Attributes:
        name: The check's name.
        error: What was expected and what was found, or None where the check passed.
        not_tried: Why there was nothing to try, or None where it was tried.
        traceback: Traceback of what the component raised; empty where nothing was.
    """

    name: str
    error: str | None
    not_tried: str | None = None
    traceback: str = field(default="", compare=False)


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
            ContractError: The contract is broken, or the config is another one afterwards.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            with self.subject.config_kept():
                self.function(self.subject)

    def result(self) -> CheckResult:
        """Run the check and say how it went."""
        return _result(self.name, self, self.subject)


def _result(name: str, run: Callable[[], None], subject: Tested) -> CheckResult:
    try:
        run()
    except (NotTriedError, MissingExtraError) as error:
        return CheckResult(name, None, str(error))
    except ContractError as error:
        return CheckResult(name, str(error))
    except Exception as error:  # noqa: BLE001 - whatever a third party's component raises
        said = f"{type(error).__name__}: {error} ({place_in(subject.component.__module__, error)})"
        return CheckResult(name, said, traceback="".join(traceback.format_exception(error)))
    return CheckResult(name, None)


def checks_of(kind: str) -> tuple[Function, ...]:
    """Return the functions that check plugins of a kind, in order."""
    return _KINDS[kind][2]


def list_checks(kind: str, component: type[Any], config: Any = None) -> list[Check]:
    """Return the checks of a component.

    Args:
        kind: The kind's name: ``encoder``, ``adapter``, ``layout`` and so on.
        component: Its class.
        config: The config whose tiny variant is checked (that of a kind other than encoder, adapter and LLM
            as it is); None for the defaults.

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
    """Check a component against the contract of its kind; arguments and errors are those of `list_checks`.

    One that cannot be built fails once: its other checks could only say so again.
    """
    checks = list_checks(kind, component, config)
    subject = checks[0].subject
    built = _result("builds", subject.expect_built, subject)
    if built.error is None:
        return [check.result() for check in checks]
    of_config = [check for check in checks if check.function in _CONFIG]
    failed = next((result for check in of_config if (result := check.result()).error is not None), built)
    return [failed]


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


def parametrize_checks(
    component: type[Any], *, expected_failures: Mapping[str, str] | None = None, **configs: Any
) -> pytest.MarkDecorator:
    """Make one pytest test for each check of a component.

        @parametrize_checks(MyAdapter)
        def test_contract(check):
            check()

    Args:
        component: The class of a plugin, of any kind.
        expected_failures: Why a check fails, by its name (in all configs) or by its test id (in one:
            ``{"mean-bf16_runs": "an operator lacks bfloat16 on the CPU"}``). Such a test is a strict
            expected failure: once it passes, it has to be taken off the list.
        configs: Configs whose tiny variants are checked (those of other kinds than encoder, adapter and LLM
            as they are), by a name for the test ids:
            ``parametrize_checks(MyAdapter, mean=MyAdapter.Config(pool="mean"))``. Without, the defaults are.

    Raises:
        TypeError: It is no plugin's.
        ValueError: An expected failure names no check, or gives no reason.
    """
    import pytest

    kind = kind_of_component(component)
    reasons = dict(expected_failures or {})
    cases: list[Any] = []
    known: set[str] = set()
    for name, config in (configs or {"": None}).items():
        for check in list_checks(kind, component, config):
            test_id = f"{name}-{check.name}" if name else check.name
            known |= {test_id, check.name}
            reason = reasons.get(test_id, reasons.get(check.name))
            marks = () if reason is None else pytest.mark.xfail(reason=reason, strict=True)
            cases.append(pytest.param(check, id=test_id, marks=marks))
    for name, reason in reasons.items():
        if name not in known:
            raise ValueError(
                f"expected_failures: {component.__name__} has no check '{name}'.{nearest(name, known)} "
                f"Checks: {listing(known)}"
            )
        if not (isinstance(reason, str) and reason.strip()):
            raise ValueError(f"expected_failures: '{name}' needs a reason, in words")
    return pytest.mark.parametrize("check", cases)
