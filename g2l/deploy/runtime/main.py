"""The command line of `embed.pyz`: `g2l embed` and `g2l verify` of the bundle it lies in, without torch.

Only the standard library is imported here: what is not installed is told in one line.
"""

import argparse
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from g2l.errors import ConfigError, G2LError

PROG = "python embed.pyz"


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line instead of a screen of usage."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message}; {self.prog} --help lists every setting")


def main(arguments: list[str] | None = None, folder: Path | None = None) -> int:
    """Runs `embed`, or with --verify `verify`, of a bundle and prints the result.

    Args:
        folder: the bundle, unless --bundle names another.
    Returns:
        As `g2l`: 0, 1 where slides failed or a check did, 2 for a mistake of the user's, 130 and 143 when interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        result = run(arguments, folder)
    except G2LError as error:
        if os.environ.get("G2L_DEBUG"):
            raise
        sys.stderr.write(f"embed.pyz: error: {error}\n")
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as end:
        code = 130 if isinstance(end, KeyboardInterrupt) else end.code if isinstance(end.code, int) else 0
        if code > 128:
            sys.stderr.write("embed.pyz: interrupted; the same command goes on where it stopped\n")
        return code
    sys.stdout.write(f"{result}\n")
    return int(getattr(result, "exit_code", 0))


def run(arguments: list[str], folder: Path | None) -> object:
    """What the verb gives back. Raises ConfigError, among others where a library is not installed."""
    try:
        if "--verify" in arguments:
            from g2l.deploy.runtime.verify import verify

            return call(verify, [one for one in arguments if one != "--verify"], folder, f"{PROG} --verify")
        from g2l.deploy.runtime.embed import embed

        return call(embed, arguments, folder, PROG)
    except ModuleNotFoundError as error:
        if (error.name or "g2l").startswith("g2l"):
            raise
        raise ConfigError(f"{error.name} is not installed; run: pip install -r requirements.txt") from error


def call(function: Callable[..., Any], arguments: list[str], folder: Path | None, prog: str) -> Any:
    """Parse the arguments and call the function, whose first parameter is the bundle, with them."""
    values = vars(parser_of(function, folder, prog).parse_args(arguments))
    by_position = [values.pop(name) for name in _by_position(function)]
    return function(*by_position, **values)


def parser_of(function: Callable[..., Any], folder: Path | None, prog: str) -> Parser:
    """The options that `g2l` reads off the same function, but the bundle is an option."""
    description = (inspect.getdoc(function) or "").split("\n\n")[0]
    if prog == PROG:
        description += f" {PROG} --verify checks the bundle instead ({PROG} --verify --help)."
    parser = Parser(prog=prog, description=description, allow_abbrev=False)
    texts, hints, at = _texts(function), get_type_hints(function), _by_position(function)
    for name, parameter in inspect.signature(function).parameters.items():
        text = texts.get(name, "").replace("%", "%%")
        if name == at[0]:
            where = str(folder) if folder else None
            parser.add_argument("--bundle", dest=name, default=where, required=where is None, help=text)
        elif name in at:
            parser.add_argument(name, help=text)
        elif parameter.default is False:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        else:
            required = parameter.default is inspect.Parameter.empty
            shown = "" if required or parameter.default is None else f" (default: {parameter.default})"
            options: dict[str, Any] = {"required": required, "help": text + shown, **_kind(hints[name])}
            parser.add_argument(f"--{name}", default=None if required else parameter.default, **options)
    return parser


def _by_position(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is inspect.Parameter.POSITIONAL_ONLY]


def _kind(hint: Any) -> dict[str, Any]:
    """How argparse reads a value of this type."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(one for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    return {"type": hint}


def _texts(function: Callable[..., Any]) -> dict[str, str]:
    """`name: text` lines below Args: in a docstring."""
    names, found, current = inspect.signature(function).parameters, dict[str, str](), ""
    for line in (inspect.getdoc(function) or "").partition("Args:\n")[2].splitlines():
        head, colon, rest = line.strip().partition(": ")
        if not line.startswith("    "):
            break
        if colon and head in names:
            current, found[head] = head, rest
        elif current:
            found[current] += f" {line.strip()}"
    return found
