"""`g2l evaluate`: encoders x tasks -> results that `g2l report` reads."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from g2l.errors import ConfigError, EncoderError
from g2l.evaluation.choice import Choice
from g2l.evaluation.embedding.settings import Embedding
from g2l.evaluation.jobs import prepare
from g2l.evaluation.names import TASKS  # noqa: F401  YAML names tasks and sources by their class alone
from g2l.evaluation.tasks.task import Task


def evaluate(
    encoders: dict[str, str | Choice] = {},  # noqa: B006  never changed; without one, a line below says what to give
    tasks: dict[str, Task] = {},  # noqa: B006
    out: str = "results",
    weights: str | None = None,
    cache: str | None = None,
    embedding: Embedding = Embedding(),  # noqa: B008  frozen
    seed: int = 0,
    only: list[str] | None = None,
    allow_leak: bool = False,
) -> str:
    """Judge encoders on tasks: embed once, fit on train, choose on val, predict test.

    Args:
        encoders: name in the report -> a catalogue or timm name, YAML, checkpoint, or exported folder; or with
            `model`, `weights`, `init`, `img_size`.
        tasks: name in the report -> a task with its data.
        out: the folder of the results; what is finished there and unchanged is not computed again.
        weights: folder that holds `<name>.safetensors` of the encoders that are given by name.
        cache: the folder of the embeddings; by default `embeddings` in `out`.
        embedding: how images and slides are embedded.
        seed: of splits, initial weights of heads, and resamples.
        only: the tasks to run, when not all.
        allow_leak: go on where images of the test part have copies in train; every result then says so.
    """
    for what, given, example in (
        ("encoders", encoders, "--encoders.student runs/demo/student"),
        ("tasks", tasks, "--config configs/evaluation/lc25000.yaml"),
    ):
        if not given:
            raise ConfigError(f"evaluate: no {what} are named; give some, for example {example}")
    unknown = [name for name in only or [] if name not in tasks]
    if unknown:
        raise ConfigError(f"only names no task of this evaluation: {', '.join(unknown)}; there are {', '.join(tasks)}")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output folder {folder} cannot be written ({error.strerror}); choose another --out"
        ) from error
    chosen = {name: task for name, task in tasks.items() if only is None or name in only}
    choices = _choices(encoders, weights)
    kept = Path(cache) if cache else folder / "embeddings"
    with tqdm(total=0, bar_format="{desc}", disable=None) as line:
        jobs = prepare(chosen, choices, seed, kept / "prints", allow_leak, line.set_description_str)

    from g2l.evaluation.running import Evaluation

    return Evaluation(jobs, choices, folder, kept, embedding, seed).run()


def _choices(encoders: dict[str, str | Choice], weights: str | None) -> dict[str, Choice]:
    """Every encoder with the place of its weights; those that hold their own have none.

    Raises:
        ConfigError: naming all that are not there, before hours are spent on the others.
    """
    from g2l.encoders.opening import kind_of, require_encoder

    found: dict[str, Choice] = {}
    problems = []
    for name, given in encoders.items():
        choice = Choice(given) if isinstance(given, str) else given
        try:
            if choice.weights is None and kind_of(choice.model) == "name":
                choice = replace(choice, weights=weights)
            require_encoder(choice.model, choice.weights, choice.init)
        except EncoderError as error:
            problems.append(f"encoder {name}: {error}")
        found[name] = choice
    if problems:
        raise ConfigError("; and ".join(problems))
    return found
