"""Jinja that strangers wrote, rendered within limits.

A checkpoint brings its chat template. It runs in the sandbox in which transformers runs templates, and gives
the same text; besides, what it writes, what it builds on the way and how long it takes are bounded: whatever
can make much of little (a loop, a call, a filter, `*`, `~`, a width) is counted, and is refused before it is
done.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, wraps
from types import BuiltinMethodType, GeneratorType, MethodType
from typing import Any, cast

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_TEMPLATE = 100_000
"""Longest source of a template [characters]."""
MAX_TOKENS = 20_000
"""Most names, signs, blanks and texts that it consists of."""
MAX_OUTPUT = 1_000_000
"""Most that a template writes, or holds in one value, beside `PER_CHARACTER` times its input [characters]."""
PER_CHARACTER = 10
MAX_WORK = 50_000_000
"""Most that it makes on the way, beside twenty times as much as it may write [characters and steps]."""
MAX_SECONDS = 2.0
"""Longest that it may run, in time of the processor [s]."""
MAX_WIDTH = 1000
"""Largest number that a filter or a width takes."""
_MAX_BITS = 10_000

_WIDTH = re.compile(r"%(?:\([^()]*\))?[^a-zA-Z%]*(\d{4}|\*)|%\([^()]*\(|\{[^{}]*(\d{4}|\{)")
_PADDING = {"ljust", "rjust", "center", "zfill"}
_SEEKING = {"strip", "lstrip", "rstrip", "trim", "rfind", "rindex", "rsplit", "rpartition"}
"""What takes the product of two lengths, at worst."""
_SLOW = ("pprint", "striptags", "urlize", "wordwrap")
"""Filters that take far longer than their result is large, and that no chat template needs."""
_TEXT_METHODS = _PADDING | {
    *("strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "replace", "join", "format", "format_map"),
    *("split", "rsplit", "splitlines", "partition", "rpartition", "startswith", "endswith", "count"),
    *("find", "rfind", "index", "rindex", "upper", "lower", "title", "capitalize", "casefold", "swapcase"),
    *(name for name in dir(str) if name.startswith("is")),
}
_ANY_NUMBER = {"default", "d", "format", "sum", "attr"}  # filters to which a number is no width


class TemplateLimitError(ValueError):
    """A template goes beyond a limit."""


class _Budget:
    """What one rendering may still do."""

    def __init__(self, given: int) -> None:
        self.most = MAX_OUTPUT + PER_CHARACTER * given
        self.work = MAX_WORK + 20 * self.most
        self.left = self.most
        self.end = time.thread_time() + MAX_SECONDS

    def step(self, work: int = 1) -> None:
        self.work -= work
        if self.work < 0:
            raise TemplateLimitError("it makes far more on its way than it may write")
        if time.thread_time() > self.end:
            raise TemplateLimitError(f"it works for more than {MAX_SECONDS:g} s")

    def write(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise self.too_much()
        self.step(size)

    def too_much(self) -> TemplateLimitError:
        return TemplateLimitError(f"it makes a text or a list of more than {self.most:,} characters")

    def need(self, size: int) -> None:
        """Refuse to make what is larger than a value may be."""
        if size > self.most:
            raise self.too_much()

    def checked(self, value: Any) -> Any:
        """Return a value that has been made, if it is no larger than one may be."""
        self.need(size := self.size(value))
        self.step(size if isinstance(value, str) else 1)
        return value

    def size(self, value: Any) -> int:
        """Return how much a value holds; see `_size`."""
        return len(value) + 1 if isinstance(value, str) else _size(value, self.most)

    def listed(self, value: Any) -> Any:
        """Return what a generator gives as a list that is not too large; other values as they are."""
        if not isinstance(value, GeneratorType):
            return value
        items: list[Any] = []
        total = 0
        for item in value:
            self.need(total := total + self.size(item))
            self.step()
            items.append(item)
        return items


def _size(value: Any, most: float) -> int:
    """Return how much a value holds, what stands in it twice counted twice; stops soon after `most`."""
    total, inside = 0, [value]
    while inside and total <= most:
        item = inside.pop()
        total += 1
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, int):
            total += item.bit_length() // 3
        elif isinstance(item, list | tuple | set | frozenset):
            inside.extend(item)
        elif isinstance(item, Namespace):
            inside.append(cast(Any, item)._Namespace__attrs)
        elif isinstance(item, dict):
            inside.extend(item)
            inside.extend(item.values())
    return total


_BUDGET: ContextVar[_Budget] = ContextVar("budget")


def render_template(source: str, variables: Mapping[str, Any]) -> str:
    """Render a template as `apply_chat_template` of transformers does.

    Args:
        source: The template.
        variables: Its variables, plain data.

    Raises:
        TemplateLimitError: It goes beyond a limit.
        Exception: Whatever else the template makes happen.
    """
    token = _BUDGET.set(_Budget(_size(dict(variables), math.inf)))
    try:
        return cast(str, _compiled(source).render(variables))
    finally:
        _BUDGET.reset(token)


@dataclass(frozen=True)
class TemplateReads:
    """What a template reads.

    Attributes:
        variables: The names that it expects to be given.
        words: The texts that it spells, such as the values that it knows of a variable.
    """

    variables: frozenset[str]
    words: frozenset[str]


@lru_cache(maxsize=64)
def template_reads(source: str) -> TemplateReads:
    """Return what a template reads, from its syntax; it is not run.

    Raises:
        TemplateLimitError: It goes beyond a limit.
        TemplateError: It is no template.
    """
    _check_size(source)
    tree = _environment().parse(source)
    words = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return TemplateReads(frozenset(find_undeclared_variables(tree)), frozenset(words))


@lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    _check_size(source)
    return _environment().from_string(source)


def _check_size(source: str) -> None:
    if len(source) > MAX_TEMPLATE:
        raise TemplateLimitError(f"it has {len(source):,} characters; at most {MAX_TEMPLATE:,} are read")
    # Compiling has no time limit of its own: 20,000 tokens take a second at most.
    if any(number == MAX_TOKENS for number, _ in enumerate(_environment().lexer.tokeniter(source, None))):
        raise TemplateLimitError(f"it has more than {MAX_TOKENS:,} tokens of Jinja")


@lru_cache(maxsize=1)
def _environment() -> "_Environment":
    return _Environment()


class _Counted(NodeTransformer):
    """Puts a count into every loop, and a check around all that makes values."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self.generic_visit(node)
        if isinstance(node, nodes.For):
            text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
            node.body.insert(0, nodes.ExprStmt(_call("count", [nodes.Const(1 + text)])))
        elif isinstance(node, nodes.Concat):
            return _call("concatenated", node.nodes)
        elif isinstance(node, nodes.List | nodes.Dict | nodes.Tuple | nodes.Compare):
            return node if getattr(node, "ctx", "load") != "load" else _call("checked", [node])
        return node


def _call(name: str, args: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), args, [], None, None)


class _Generation(Extension):
    """The mark ``{% generation %}``, with which templates tell what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller: Callable[[], str]) -> str:
        return caller()


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
            finalize=_written,
            optimized=False,  # nothing is worked out when a template is read
            cache_size=0,
        )
        for name in _SLOW:
            del self.filters[name]
        self.filters["tojson"] = _to_json
        for name, function in list(self.filters.items()):
            self.filters[name] = _bounded(name, cast(Any, function))
        for name, function in list(self.tests.items()):
            self.tests[name] = _bounded(name, cast(Any, function))
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = _now
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Namespace

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        counted = _Counted().visit(source)
        counted.set_environment(self)
        for node in counted.find_all(nodes.Node):
            node.lineno = node.lineno or 1
        return super()._generate(counted, *args, **options)

    def count(self, work: int) -> None:
        """Count a turn of a loop, and the text in it."""
        _BUDGET.get().write(work - 1)
        _BUDGET.get().step()

    def checked(self, value: Any) -> Any:
        """Return a value that a template has made."""
        return _BUDGET.get().checked(value)

    def concatenated(self, *values: Any) -> str:
        """Return texts end to end."""
        budget = _BUDGET.get()
        budget.need(sum(budget.size(value) for value in values) - len(values))
        return cast(str, budget.checked("".join(map(str, values))))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Work out an operation whose result is not too large."""
        budget = _BUDGET.get()
        numbers = [value for value in (left, right) if isinstance(value, int)]
        if operator == "%" and isinstance(left, str):
            _check_format(budget, left, [right])
        elif operator == "*" and len(numbers) == 2:
            _check_bits(sum(number.bit_length() for number in numbers))
        elif operator == "*" and numbers:
            budget.need(max(numbers[0], 0) * budget.size(right if numbers[0] is left else left))
        elif operator == "**" and len(numbers) == 2:
            _check_bits(left.bit_length() * abs(right))
        return budget.checked(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return `str.format` as the sandbox allows it, for what is not too large."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def checked(*args: Any, **options: Any) -> str:
            _check_format(_BUDGET.get(), value.__self__, [*args, *options.values()])
            return wrapped(*args, **options)

        return checked

    def call(_self, _context: Context, _function: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function whose result is not too large."""
        budget = _BUDGET.get()
        budget.step()
        owner = getattr(_function, "__self__", None)
        if isinstance(owner, _Environment):  # of this module
            return _function(*args)
        args = tuple(budget.listed(value) for value in args)
        if isinstance(_function, BuiltinMethodType | MethodType):
            _check_method(budget, owner, _function.__name__, [*args, *_in_order(kwargs)])
        return budget.checked(super().call(_context, _function, *args, **kwargs))


def _in_order(options: Mapping[str, Any]) -> list[Any]:
    """Return what is given by name: of `replace`, what is old before what is new."""
    return [options[name] for name in sorted(options, reverse=True)]


def _check_method(budget: _Budget, owner: Any, name: str, args: list[Any]) -> None:
    """Refuse methods of Python's own types that make much of little."""
    if isinstance(owner, int | float | bytes) or (isinstance(owner, str) and name not in _TEXT_METHODS):
        raise TemplateLimitError(f"it calls {type(owner).__name__}.{name}, which a template may not")
    if isinstance(owner, str) and name in _PADDING:
        _check_width(args)
    elif isinstance(owner, str) and name in _SEEKING:
        _check_sought(args)
    elif isinstance(owner, str) and name == "replace" and len(args) > 1:
        _check_replace(budget, owner, args[0], args[1])
    elif isinstance(owner, str) and name == "join" and args:
        _check_join(budget, args[0], owner)


def _check_replace(budget: _Budget, text: Any, old: Any, new: Any) -> None:
    budget.need(len(str(text)) + str(text).count(str(old)) * len(str(new)))


def _check_join(budget: _Budget, items: Any, between: Any) -> None:
    if isinstance(items, list | tuple | str | set | dict | range):
        budget.need(budget.size(items) + len(items) * len(str(between)))


def _check_width(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_WIDTH:
            raise TemplateLimitError(f"it asks for {value:.3g} where at most {MAX_WIDTH:,} is allowed")


def _check_sought(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, str) and len(value) > MAX_WIDTH:
            raise TemplateLimitError(
                f"it looks for a text of {len(value):,} characters where at most {MAX_WIDTH:,} are allowed"
            )


def _check_format(budget: _Budget, text: str, values: Iterable[Any]) -> None:
    if _WIDTH.search(text):
        raise TemplateLimitError(f"it pads to a width of more than {MAX_WIDTH - 1}, or to one that varies")
    largest = MAX_WIDTH + max(map(budget.size, values), default=0)
    budget.need(len(text) + (text.count("%") + text.count("{")) * largest)


def _check_bits(bits: int) -> None:
    if bits > _MAX_BITS:
        raise TemplateLimitError(f"it works out a number of more than {_MAX_BITS:,} bits")


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter or a test whose result is not too large."""
    first = 0 if getattr(function, "jinja_pass_arg", None) is None else 1  # after what Jinja gives

    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        budget = _BUDGET.get()
        budget.step()
        given = [budget.listed(value) for value in args[first:]]
        beside = [*given[1:], *_in_order(options)]
        if name not in _ANY_NUMBER:
            _check_width(beside)
        if given:
            _check_filter(budget, name, given[0], beside)
        return budget.checked(function(*args[:first], *given, **options))

    return checked


def _check_filter(budget: _Budget, name: str, value: Any, beside: list[Any]) -> None:
    if name == "join":
        _check_join(budget, value, max(map(str, beside), key=len, default=""))
    elif name == "replace" and len(beside) > 1:
        _check_replace(budget, value, beside[0], beside[1])
    elif name in ("indent", "tojson"):
        size, widths = budget.size(value), [x if isinstance(x, int) else len(str(x)) for x in beside]
        lines = value.count("\n") + 1 if isinstance(value, str) else size * _depth(value)
        budget.need(size + lines * max(widths, default=0))
    elif name == "format":
        _check_format(budget, str(value), beside)
    elif name == "trim":
        _check_sought(beside)
    elif name == "sum" and any(isinstance(start, list | tuple) for start in beside):
        budget.step(len(value) * budget.size(value))  # what is there is copied for each


def _depth(value: Any) -> int:
    """Return how deeply a value is nested."""
    depth, level = 0, [value]
    while level and depth < MAX_WIDTH:
        depth += 1
        lists = [item for item in level if isinstance(item, list | tuple)]
        dicts = [item for item in level if isinstance(item, dict)]
        level = [inner for item in (*lists, *(found.values() for found in dicts)) for inner in item]
    return depth


@pass_context
def _written(_context: Context, value: Any) -> Any:
    budget = _BUDGET.get()
    budget.write(len(value) if isinstance(value, str) else budget.size(value))
    return value


def _to_json(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(format: str) -> str:
    _check_format(_BUDGET.get(), format, [])
    return datetime.now().strftime(format)


class _Dict:
    """What templates call `dict`: its methods, and no type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Return a mapping of keys to one value."""
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """Jinja's own, without names that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TemplateError(f"a namespace cannot hold {name!r}: it begins with an underscore")
        super().__setitem__(name, value)
