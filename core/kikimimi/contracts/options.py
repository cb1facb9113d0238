"""Options of components and recipes: a field's type declares what it may hold, and it is checked here alone.

`Literal` lists choices and ``Annotated[int, Ge(1)]`` sets bounds, in the terms of annotated-types: `Ge`,
`Gt`, `Le`, `Lt`, `Interval`, `MultipleOf`, `MinLen`, `MaxLen`, `Len`; also in lists, mappings and unions.
`Rule` says what has no term there. The arguments of a function are checked in the same way (`checked`).
"""

import ast
import dataclasses
import enum
import functools
import inspect
import math
import operator
import textwrap
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen, MultipleOf

from kikimimi.console.words import listing, nearest
from kikimimi.errors import RequestError

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule(BaseMetadata):
    """A bound that annotated-types lacks: ``Rule("odd", lambda value: value % 2 == 1)``."""

    words: str
    holds: Callable[[Any], Any]


PositiveInt = Annotated[int, Ge(1)]
"""A whole number from 1."""
_FEW = Rule("at most 1000", lambda value: value <= 1000)
LayerCount = Annotated[int, Ge(1), _FEW]
"""How many layers are stacked; each takes a while to build."""
NonNegativeInt = Annotated[int, Ge(0)]
"""A whole number from 0."""
_FINITE = Rule("a finite number", lambda value: value < math.inf)
_ASIDE = (_FINITE, _FEW)  # bounds that nobody means to reach: told alone, where they are broken
PositiveFloat = Annotated[float, Gt(0), _FINITE]
"""A finite number above 0."""
NonNegativeFloat = Annotated[float, Ge(0), _FINITE]
"""A finite number from 0."""
Fraction = Annotated[float, Ge(0), Le(1)]
"""A part of a whole, all of it included."""
Probability = Annotated[float, Ge(0), Lt(1)]
"""How often something is dropped, which is never all of it."""
OddInt = Annotated[int, Ge(1), Rule("odd", lambda value: value % 2 == 1)]
"""An odd number from 1: the width of a window that has a middle."""
Text = Annotated[str, Rule("not blank", str.strip)]
"""A text that is more than spaces."""
Distinct = Rule("without repeats", lambda values: len(set(values)) == len(values))
"""A list that names nothing twice."""

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
_BOUNDS: dict[type[BaseMetadata], tuple[str, str, Callable[[Any, Any], bool]]] = {
    Ge: ("ge", "at least {}", operator.ge),
    Gt: ("gt", "above {}", operator.gt),
    Le: ("le", "at most {}", operator.le),
    Lt: ("lt", "below {}", operator.lt),
    MultipleOf: ("multiple_of", "a multiple of {}", lambda value, of: value % of == 0),
    MinLen: ("min_length", "at least {} long", lambda value, least: len(value) >= least),
    MaxLen: ("max_length", "at most {} long", lambda value, most: len(value) <= most),
    Rule: ("holds", "{}", lambda value, holds: bool(holds(value))),
}


class OptionsError(RequestError):
    """Options are out of their bounds.

    Attributes:
        problems: A line for each, starting with the option: ``downsample: must be at least 1, not 0``.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


@dataclass(kw_only=True, frozen=True)
class Options:
    """Base of every dataclass of options. It checks bounds and choices when one is made.

    A `__post_init__` is for rules between options: it runs when each is in its bounds by itself, and need not
    call that of its base for the bounds' sake.

    Raises:
        OptionsError: Options are out of their bounds; the error holds all of them.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = vars(cls).get("__post_init__")
        if own is not None:

            @functools.wraps(own)
            def checked(self: Any, *args: Any) -> None:
                Options.__post_init__(self)
                own(self, *args)

            type.__setattr__(cls, "__post_init__", checked)

    def __post_init__(self) -> None:
        if found := list(_problems_inside(self, "")):
            raise OptionsError(found)


def checked(function: _Function) -> _Function:
    """Have a function check its arguments as options are, by the bounds in its signature.

    Raises:
        OptionsError: When it is called, and they are out of their bounds.
    """

    @functools.wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        hints = get_type_hints(function, include_extras=True)
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        if found := [said for name in given for said in out_of_bounds(hints.get(name), given[name], name)]:
            raise OptionsError(found)
        return function(*args, **kwargs)

    return cast(_Function, checking)


@dataclass(frozen=True)
class Option:
    """An option as its dataclass declares it.

    Attributes:
        owner: The dataclass.
        name: What YAML calls it.
        field: The dataclass's field.
        annotation: Its type, with its bounds and choices: see `describe_type`.
    """

    owner: type[Any]
    name: str
    field: dataclasses.Field[Any]
    annotation: Any

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.field.default is self.field.default_factory is dataclasses.MISSING

    @property
    def default(self) -> Any:
        """The default, or `dataclasses.MISSING`."""
        made = self.field.default_factory
        return self.field.default if made is dataclasses.MISSING else made()

    @property
    def docstring(self) -> str:
        """What stands under the field; empty where nothing does.

        Raises:
            OSError, TypeError: The source cannot be read.
        """
        return _docstrings(cast(Any, self.owner)).get(self.field.name, "")


def declared(cls: type[Any]) -> dict[str, Option]:
    """Return the options of a dataclass by the name that YAML uses.

    Raises:
        NameError: A type names something that does not exist at run time.
        TypeError: A bound is of a kind that is not checked.
    """
    return _declared(cast(Any, cls))


@functools.cache
def _declared(cls: Any) -> dict[str, Option]:
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for field in dataclasses.fields(cls):
        if field.init:
            name = field.metadata.get("key", field.name)
            found[name] = Option(cls, name, field, hints[field.name])
            _expect_known(hints[field.name], f"{cls.__qualname__}.{field.name}")
    return found


@functools.cache
def _docstrings(cls: Any) -> dict[str, str]:
    """Return the docstrings under the fields of a dataclass and of those that it inherits from."""
    found: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        definition = ast.parse(textwrap.dedent(inspect.getsource(cast(Any, base)))).body[0]
        assert isinstance(definition, ast.ClassDef)
        for statement, following in zip(definition.body, definition.body[1:], strict=False):
            match statement, following:
                case (ast.AnnAssign(target=ast.Name(id=n)), ast.Expr(value=ast.Constant(value=str(text)))):
                    found[n] = text.strip()
                case (ast.AnnAssign(target=ast.Name(id=n)), _):
                    found.pop(n, None)
    return found


def without_none(annotation: Any) -> tuple[Any, bool]:
    """Return the type without None and without bounds, and whether None was part of it."""
    if get_origin(annotation) is Annotated:
        return without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        members = get_args(annotation)
        rest = [member for member in members if member is not type(None)]
        if len(rest) < len(members):
            return Union[tuple(rest)] if len(rest) > 1 else without_none(rest[0])[0], True  # noqa: UP007 - of what is known at run time alone
    return annotation, False


def describe_type(annotation: Any) -> str:
    """Return a type with its bounds, a list's own first: ``a whole number (at least 1) or null``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        said, bounds = describe_type(args[0]), describe_bounds(annotation)
        return said.replace("a list", f"a list{bounds}", 1) if said.startswith("a list") else said + bounds
    if origin in (Union, types.UnionType):
        members = [describe_type(member) for member in args if member is not type(None)]
        null = f"{',' * members[-1].startswith('a list (')} or null" if type(None) in args else ""
        return " or ".join(members) + null
    if origin is Literal:
        return f"one of {', '.join(str(choice) for choice in args)}"
    if origin is dict:
        return f"a section whose values are each {describe_type(args[1])}"
    if origin is tuple and args[-1:] != (Ellipsis,):
        return f"a list of {len(args)}: {', '.join(describe_type(member) for member in args)}"
    if origin in (list, tuple):
        return f"a list, each {describe_type(args[0])}"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return f"one of {', '.join(annotation.__members__)}"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def describe_bounds(annotation: Any) -> str:
    """Return a type's own bounds in words: `` (not empty)``, or an empty text."""
    bounds = _said(_constraints(annotation)) if get_origin(annotation) is Annotated else ""
    return f" ({bounds})" if bounds else ""


def _constraints(annotation: Any) -> Iterator[BaseMetadata]:
    for item in annotation.__metadata__:
        # Those for other tools, such as a text for a form, are not ours to read.
        if isinstance(item, GroupedMetadata):
            yield from cast("Iterator[BaseMetadata]", item)
        elif isinstance(item, BaseMetadata):
            yield item


def _said(constraints: Any) -> str:
    """Return bounds in words: ``at least 0 and below 1``. Beside others, those of `_ASIDE` are left out."""
    words = []
    for constraint in [item for item in constraints if item not in _ASIDE] or constraints:
        attribute, said, _ = _BOUNDS[type(constraint)]
        bound = constraint.words if isinstance(constraint, Rule) else getattr(constraint, attribute)
        words.append("not empty" if said == "at least {} long" and bound == 1 else said.format(bound))
    return " and ".join(words)


def _expect_known(annotation: Any, name: str) -> None:
    if get_origin(annotation) is Annotated:
        for constraint in _constraints(annotation):
            if type(constraint) not in _BOUNDS:
                known = listing(bound.__name__ for bound in _BOUNDS)
                raise TypeError(f"{name}: {constraint} is not checked. Bounds that are: {known}")
    for argument in get_args(annotation):
        _expect_known(argument, name)


def _problems_inside(options: Any, path: str) -> Iterator[str]:
    for name, option in declared(type(options)).items():
        yield from out_of_bounds(option.annotation, getattr(options, option.field.name), f"{path}{name}")


def out_of_bounds(annotation: Any, value: Any, path: str) -> Iterator[str]:
    """Yield what is wrong with a value; types are not looked at, but where bounds need them."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        constraints = list(_constraints(annotation))
        broken = [] if value is None else [item for item in constraints if not _holds(item, value)]
        if broken:
            # The ends of a range are told together; that a list is not empty is told of an empty one.
            said = _said(broken if MinLen in map(type, constraints) or broken[0] in _ASIDE else constraints)
            inner = next(iter(get_args(args[0])), None)
            choices = f"; it takes {listing(get_args(inner))}" if get_origin(inner) is Literal else ""
            is_empty = said in ("not empty", "not blank")
            yield f"{path}: must {f'not be {said[4:]}{choices}' if is_empty else f'be {said}, not {value!r}'}"
        else:
            yield from out_of_bounds(args[0], value, path)
    elif origin in (Union, types.UnionType):
        if value is not None or type(None) not in args:
            each = [list(out_of_bounds(member, value, path)) for member in args if member is not type(None)]
            for problem in min(each, key=len):  # who leaves a text blank may mean that there is none
                is_blank = type(None) in args and problem.endswith(" not be blank")
                yield f"{problem}; null is allowed" if is_blank else problem
    elif origin is Literal:
        if value not in args:
            names = [str(choice) for choice in args]
            yield f"{path}: {value!r} is not one of {listing(names)}.{nearest(str(value), names)}"
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from (*out_of_bounds(args[0], key, path), *out_of_bounds(args[1], item, f"{path}.{key}"))
    elif origin in (list, tuple) and isinstance(value, list | tuple):
        members = args if origin is tuple and args[-1] is not Ellipsis else args[:1] * len(value)
        for number, (member, item) in enumerate(zip(members, value, strict=False)):
            yield from out_of_bounds(member, item, f"{path}[{number}]")
    elif origin is None and isinstance(value, list | dict):  # of any form
        for place, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from out_of_bounds(Any, item, f"{path}.{place}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path}: must be a finite number, not {value!r}"
    elif (
        dataclasses.is_dataclass(annotation) and type(value) is annotation and not isinstance(value, Options)
    ):
        yield from _problems_inside(value, f"{path}.")


def _holds(constraint: BaseMetadata, value: Any) -> bool:
    attribute, _, holds = _BOUNDS[type(constraint)]
    try:
        return holds(value, getattr(constraint, attribute))
    except TypeError:  # a text where a number belongs
        return False
