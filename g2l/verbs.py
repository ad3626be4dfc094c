"""Command line of a verb that is a plain function: read off its signature and docstring."""

import inspect
from argparse import ArgumentError
from collections.abc import Callable
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser  # pyright: ignore[reportPrivateImportUsage]

from g2l.errors import ConfigError


class Parser(ArgumentParser):
    """Tells a mistake in one line instead of a screen of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise ConfigError; the parser of an inner object (a task) tells the one around it, which knows where."""
        message = message.replace("Expected a dot import path string:", "no such class is known:")
        if not self.prog.startswith("g2l "):
            raise ArgumentError(None, message) from ex
        raise ConfigError(f"{' '.join(message.split())}; python -m {self.prog} --help lists every setting") from ex


def parser_of(function: Callable[..., Any], verb: str) -> Parser:
    """`g2l VERB FIRST --other X --flag`: by position the positional-only parameters, or else the first where it is a
    text (or several texts); the others as options, those of type bool as flags, and `--config FILE` for any of them.
    `${oc.env:NAME}` and `${key}` in the file are resolved.
    """
    parameters = inspect.signature(function).parameters
    flags = {name for name, parameter in parameters.items() if parameter.default is False}
    parser = Parser(
        prog=f"g2l {verb}",
        description=(inspect.getdoc(function) or "").split("\n\n")[0],
        parser_mode="omegaconf",
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML with any of these arguments.")
    texts = _argument_texts(function)
    by_position = _by_position(function)
    for name in by_position:
        several = "+" if parameters[name].annotation == list[str] else None
        parser.add_argument(name, type=str, help=texts.get(name), nargs=several)
    parser.add_function_arguments(function, as_group=False, as_positional=False, skip={*by_position, *flags})
    for name in sorted(flags):
        parser.add_argument(f"--{name}", action="store_true", help=texts.get(name))
    return parser


def _by_position(function: Callable[..., Any]) -> list[str]:
    parameters = list(inspect.signature(function).parameters.values())
    only = [one.name for one in parameters if one.kind is inspect.Parameter.POSITIONAL_ONLY]
    return only or [one.name for one in parameters[:1] if one.annotation in (str, list[str])]


def _argument_texts(function: Callable[..., Any]) -> dict[str, str]:
    """`name: text` lines below Args: in a docstring."""
    text = (inspect.getdoc(function) or "").partition("Args:\n")[2]
    names = set(inspect.signature(function).parameters)
    found: dict[str, str] = {}
    current = ""
    for line in text.splitlines():
        head, colon, rest = line.strip().partition(": ")
        if colon and head in names:
            current, found[head] = head, rest
        elif not line.startswith("    "):
            break
        elif current:
            found[current] += " " + line.strip()
    return found


def call(function: Callable[..., Any], verb: str, arguments: list[str]) -> Any:
    """Parse the arguments and call the function with them."""
    parser = parser_of(function, verb)
    values = parser.instantiate(parser.parse_args(arguments)).as_dict()
    values.pop("config")
    first = [values.pop(name) for name in _by_position(function)]
    return function(*first, **values)
