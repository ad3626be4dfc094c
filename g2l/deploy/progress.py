"""Lines of progress on stderr: of a large network each step of an export takes minutes."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    """Say what is being done now."""
    tqdm.write(f"export: {text}", file=sys.stderr)
