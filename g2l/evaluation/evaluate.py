"""`g2l evaluate`: encoders x tasks -> results that `g2l report` reads."""

from pathlib import Path

from tqdm import tqdm

from g2l.errors import ConfigError
from g2l.evaluation.choice import Choice
from g2l.evaluation.embedding.settings import Embedding
from g2l.evaluation.jobs import prepare
from g2l.evaluation.names import TASKS  # noqa: F401  YAML names tasks and sources by their class alone
from g2l.evaluation.tasks.task import Task


def evaluate(
    encoders: dict[str, str | Choice],
    tasks: dict[str, Task],
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
        weights: folder that holds `<name>.safetensors` of the encoders.
        cache: the folder of the embeddings; by default `embeddings` in `out`.
        embedding: how images and slides are embedded.
        seed: of splits, initial weights of heads, and resamples.
        only: the tasks to run, when not all.
        allow_leak: go on where images of the test part have copies in train; every result then says so.
    """
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
    choices = {name: Choice(choice) if isinstance(choice, str) else choice for name, choice in encoders.items()}
    kept = Path(cache) if cache else folder / "embeddings"
    with tqdm(total=0, bar_format="{desc}", disable=None) as line:
        jobs = prepare(chosen, choices, seed, kept / "prints", allow_leak, line.set_description_str)

    from g2l.evaluation.running import Evaluation

    return Evaluation(jobs, choices, folder, kept, weights, embedding, seed).run()
