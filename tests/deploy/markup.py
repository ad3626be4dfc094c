"""Tables of a Markdown text, read by their bars alone."""

import re


def read_tables(words: str) -> dict[str, list[list[str]]]:
    """The rows of all tables below each heading, heads included, rules left out; bars after a backslash are text."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in words.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|") and not line.startswith("|---"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.setdefault(heading, []).append([cell.strip() for cell in cells])
    return found
