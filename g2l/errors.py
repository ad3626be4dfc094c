"""The errors a user can cause. Each message is one line: what is wrong, where, and the remedy."""


class G2LError(Exception):
    """Base of every error that ends a command in one line; its exit code is never 0."""

    exit_code = 2


class ConfigError(G2LError):
    """A setting, or a combination of settings, that cannot work."""


class SlideError(G2LError):
    """A slide file that cannot be opened, read, or placed in physical units."""


class CohortError(G2LError):
    """A folder, manifest or cohort that does not hold what was asked of it."""


class EncoderError(G2LError):
    """An encoder that is unknown, or whose weights are missing or do not fit."""


class TrainingError(G2LError):
    """A training run that must not go on."""
