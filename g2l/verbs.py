"""Command line of a verb that is a plain function: read off its signature and docstring."""

import inspect
from collections.abc import Callable
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser  # pyright: ignore[reportPrivateImportUsage]


def parser_of(function: Callable[..., Any], verb: str) -> ArgumentParser:
    """`g2l VERB FIRST --other X --flag`: the first parameter by position, the others as options, those of type bool as
    flags, and `--config FILE` for any of them.
    """
    parameters = inspect.signature(function).parameters
    first = next(iter(parameters))
    flags = {name for name, parameter in parameters.items() if parameter.default is False}
    parser = ArgumentParser(prog=f"g2l {verb}", description=(inspect.getdoc(function) or "").split("\n\n")[0])
    parser.add_argument("--config", action=ActionConfigFile, help="YAML with any of these arguments.")
    texts = _argument_texts(function)
    parser.add_argument(first, type=str, help=texts.get(first))
    parser.add_function_arguments(function, as_group=False, as_positional=False, skip={first, *flags})
    for name in sorted(flags):
        parser.add_argument(f"--{name}", action="store_true", help=texts.get(name))
    return parser


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
    values = parser_of(function, verb).parse_args(arguments).as_dict()
    values.pop("config")
    return function(**values)
