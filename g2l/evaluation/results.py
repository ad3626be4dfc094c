"""Results on disk: what a method of a task said of one encoder, so that a report can measure it again.

One folder each: OUT/<task>/<encoder>/<method>/ with predictions.parquet, pictures/*.png, and last outcome.json, whose
presence says that the result is whole.
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.errors import G2LError
from g2l.evaluation.tasks.task import Outcome, Predictions

OUTCOME, PREDICTIONS, PICTURES = "outcome.json", "predictions.parquet", "pictures"
FORMAT = 1
# Measures are functions of these modules and no others: a results folder must not be able to name any code.
MEASURES = "g2l.evaluation.measures."


@dataclass(frozen=True, eq=False)
class Result:
    """An outcome and where it comes from.

    Attributes:
        task, kind, method, encoder: names; `task` is the user's.
        metrics: of the whole test part, by name; nan where undefined.
        about: plain JSON: `encoder` (parameters, embed_dim, source with licence and SHA-256, images_per_second,
            device), `data` (name, origin, SHA-256, `content`: SHA-256 of files, labels, ..., each by itself; rows and
            patients or slides per part, where known; `paths`: id -> file of images that are shown), `protocol` (the
            settings under which scores are comparable), `run` (command, versions, seed, finished).
        folder: where it lies.
    """

    task: str
    kind: str
    method: str
    encoder: str
    outcome: Outcome
    metrics: dict[str, float]
    about: dict[str, Any]
    folder: Path


def folder_name(text: str) -> str:
    """A name of the user's as one part of a path."""
    return "".join(c if c.isalnum() or c in "-_.+" else "_" for c in text).lstrip(".") or "_"


def place(out: Path, task: str, encoder: str) -> Path:
    """The folder that holds a folder for each method."""
    return out / folder_name(task) / folder_name(encoder)


def write_result(result: Result) -> None:
    """Write one result; a folder without outcome.json is not finished.

    Raises:
        G2LError: it cannot be written.
    """
    module = result.outcome.measure.__module__
    if not module.startswith(MEASURES):
        raise TypeError(f"measure {module}.{result.outcome.measure.__qualname__} must be a function of {MEASURES}*")
    try:
        _write(result, module)
    except OSError as error:
        why = error.strerror or str(error)
        raise G2LError(f"result {result.folder} cannot be written ({why}); free the disk, and run again") from error


def _write(result: Result, module: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    outcome, folder = result.outcome, result.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OUTCOME).unlink(missing_ok=True)
    table = pa.table({name: pa.array(column.tolist()) for name, column in outcome.predictions.items()})
    pq.write_table(table, folder / PREDICTIONS)
    (folder / PICTURES).mkdir(exist_ok=True)
    for former in (folder / PICTURES).glob("*.png"):
        former.unlink()
    files = {name: f"{number:03d}.png" for number, name in enumerate(outcome.pictures)}
    for name, picture in outcome.pictures.items():
        Image.fromarray(picture).save(folder / PICTURES / files[name])
    content = {
        "format": FORMAT,
        "task": result.task,
        "kind": result.kind,
        "method": result.method,
        "encoder": result.encoder,
        "unit": outcome.unit,
        "primary": outcome.primary,
        "measure": f"{module}:{outcome.measure.__qualname__}",
        "metrics": result.metrics,
        "chosen": outcome.chosen,
        "notes": outcome.notes,
        "facts": outcome.facts,
        "pictures": files,
        "about": result.about,
    }
    partial = folder / f"{OUTCOME}.partial"
    partial.write_text(json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(folder / OUTCOME)


def finished(folder: Path, identity: str) -> bool:
    """Whether all methods of a task on an encoder lie in `folder`, made from the very same (`run.identity`)."""
    try:
        runs = {file.parent.name: json.loads(file.read_text())["about"]["run"] for file in folder.glob(f"*/{OUTCOME}")}
        same = all(run["identity"] == identity for run in runs.values())
        if not runs or not same or any({*map(folder_name, run["methods"])} != set(runs) for run in runs.values()):
            return False
        return all(read_result(folder / name) for name in runs)  # a damaged one is made again
    except (OSError, ValueError, KeyError, TypeError, G2LError):
        return False


def clear(folder: Path) -> None:
    """Remove the results in `folder`, so that none of another run stands beside the next ones."""
    for file in folder.glob(f"*/{OUTCOME}"):
        file.unlink()
        shutil.rmtree(file.parent)


def read_result(folder: Path) -> Result:
    """Read one result.

    Raises:
        G2LError: it is damaged, or of another g2l.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise G2LError(f"result {folder} has format {content['format']}, this g2l reads {FORMAT}; evaluate again")
        table = pq.read_table(folder / PREDICTIONS)
        predictions = {name: np.asarray(table.column(name).to_pylist()) for name in table.column_names}
        outcome = Outcome(
            unit=content["unit"],
            predictions=predictions,
            measure=_measure(content["measure"]),
            primary=content["primary"],
            chosen=content["chosen"],
            notes=content["notes"],
            pictures={name: _picture(folder, file) for name, file in content["pictures"].items()},
            facts=content["facts"],
        )
        metrics = {name: math.nan if value is None else float(value) for name, value in content["metrics"].items()}
        task, kind, method, encoder = (str(content[key]) for key in ("task", "kind", "method", "encoder"))
        return Result(task, kind, method, encoder, outcome, metrics, content["about"], folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise G2LError(f"result {folder} is damaged ({error}); evaluate again") from error


def read_results(folders: Sequence[str | Path]) -> list[Result]:
    """All finished results below the folders, by task, encoder, method.

    Raises:
        G2LError: a folder holds none, or one of them is damaged.
    """
    found: dict[Path, Result] = {}
    for folder in map(Path, folders):
        files = sorted(folder.rglob(OUTCOME))
        if not files:
            raise G2LError(f"no results below {folder} ({OUTCOME} is missing); make them with g2l evaluate")
        found |= {file.parent.resolve(): read_result(file.parent) for file in files}
    return sorted(found.values(), key=lambda result: (result.task, result.encoder, result.method))


def _measure(name: str) -> Callable[[Predictions], dict[str, float]]:
    module, _, function = name.partition(":")
    if not module.startswith(MEASURES) or not function.isidentifier():
        raise ValueError(f"its measure {name!r} is no function of {MEASURES}*")
    return getattr(import_module(module), function)


def _picture(folder: Path, file: str) -> NDArray[np.uint8]:
    from PIL import Image

    if Path(file).name != file:
        raise ValueError(f"its picture {file!r} lies outside its folder")
    with Image.open(folder / PICTURES / file) as image:
        return np.asarray(image.convert("RGB"))


def _plain(value: Any) -> Any:
    """JSON knows no nan, no infinity and no numpy: undefined becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
