"""What is said of the results of several seeds as one: nothing is made up, and what differs stays with its seed."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median
from typing import Any

from g2l.errors import G2LError
from g2l.evaluation.results import Result

Seeds = Mapping[str, Result]  # name of the seed -> the result of one task, method and encoder
# of an encoder: what every seed's network of an arm has
ALIKE = ("parameters", "embed_dim", "size", "init")


def combined(hashes: Sequence[str]) -> str:
    """SHA-256 over sorted hashes, one to a line: the same in whatever order the seeds are named."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def about(seeds: Seeds) -> dict[str, Any]:
    """`Result.about` of all seeds, and under `seeds` the metrics of each.

    Raises:
        G2LError: seeds with other settings, or with another network under the same name.
    """
    each = {name: result.about for name, result in seeds.items()}
    return {
        "encoder": _encoder(seeds),
        "data": _data(seeds),
        "protocol": _protocol(seeds),
        "run": _run([one["run"] for one in each.values()]),
        "seeds": {name: result.metrics for name, result in seeds.items()},
    }


def notes(seeds: Seeds) -> list[str]:
    """Each note once; the seed stands before those that not all seeds have."""
    found: list[str] = []
    for name, result in seeds.items():
        for note in result.outcome.notes:
            shared = all(note in other.outcome.notes for other in seeds.values())
            found.append(note if shared else f"{name}: {note}")
    return list(dict.fromkeys(found))


def chosen(seeds: Seeds) -> dict[str, Any]:
    """What every seed chose: once where it is the same, else in the order of the seeds. Scores by which it was chosen
    stay with the results of the seed.
    """
    every = [result.outcome.chosen for result in seeds.values()]
    names = [name for name, value in every[0].items() if not isinstance(value, dict)]
    return {name: _common([one.get(name) for one in every]) for name in names}


def facts(seeds: Seeds) -> dict[str, Any]:
    """Counts of classes and cross tables are added up, examples stand one under another with the ids of `unit`. Of
    others what is the same stands once; what differs as "<name>, by seed", fractions also as their mean.
    """
    every = {name: result.outcome.facts for name, result in seeds.items()}
    found: dict[str, Any] = {}
    for key in next(iter(every.values())):
        values: dict[str, Any] = {name: one.get(key) for name, one in every.items()}
        listed = list(values.values())
        if key == "examples":
            found[key] = [_example(name, example) for name, some in values.items() for example in some or []]
        elif all(isinstance(value, dict) and "counts" in value for value in listed) and _same_but_counts(listed):
            counts = zip(*(value["counts"] for value in listed), strict=True)
            found[key] = listed[0] | {"counts": [[sum(cell) for cell in zip(*rows, strict=True)] for rows in counts]}
        elif all(isinstance(value, dict) and all(type(one) is int for one in value.values()) for value in listed):
            found[key] = dict(sum(map(Counter, listed), Counter()))
        elif all(value == listed[0] for value in listed):
            found[key] = listed[0]
        else:
            if all(isinstance(value, float) for value in listed):
                found[key] = mean(listed)
            found[f"{key}, by seed"] = values
    return found


def unit(seed: str, identity: str) -> str:
    """The id of a unit among those of all seeds."""
    return f"{seed}/{identity}"


def _example(seed: str, example: Mapping[str, Any]) -> dict[str, Any]:
    near = [{**other, "id": unit(seed, other["id"])} for other in example["neighbours"]]
    return {**example, "id": unit(seed, example["id"]), "neighbours": near}


def _same_but_counts(tables: Sequence[Mapping[str, Any]]) -> bool:
    rest = [{key: value for key, value in table.items() if key != "counts"} for table in tables]
    return all(one == rest[0] for one in rest)


def _encoder(seeds: Seeds) -> dict[str, Any]:
    every = {name: result.about["encoder"] for name, result in seeds.items()}
    first = next(iter(seeds.values()))
    for key in ALIKE:
        values = [one.get(key) for one in every.values()]
        if any(value != values[0] for value in values):
            said = ", ".join(f"{name} {value}" for name, value in zip(every, values, strict=True))
            raise G2LError(
                f"encoder {first.encoder} is not one network in all seeds ({key}: {said}); give them different names"
            )
    found = {key: _common([one.get(key) for one in every.values()]) for key in next(iter(every.values()))}
    sources = [one["source"] for one in every.values()]
    found["source"] = {key: _common([source.get(key) for source in sources]) for key in sources[0]}
    hashes = [source.get("sha256") for source in sources]
    found["source"]["sha256"] = combined(hashes) if all(hashes) else None  # type: ignore[arg-type]
    rates = [one["images_per_second"] for one in every.values() if one.get("images_per_second")]
    found["images_per_second"] = median(rates) if rates else None
    found["device"] = " and ".join(dict.fromkeys(one["device"] for one in every.values() if one.get("device")))
    return found


def _data(seeds: Seeds) -> dict[str, Any]:
    """Rows of all seeds added up. The patients of test are counted once each; nobody knows which those of train are."""
    every = {name: result.about["data"] for name, result in seeds.items()}
    first = next(iter(every.values()))
    parts: dict[str, dict[str, int]] = {}
    for part in first["parts"]:
        some = [one["parts"][part] for one in every.values()]
        parts[part] = {key: sum(one[key] for one in some) for key in some[0]}
    if "patients" in parts.get("test", {}):
        patients = {str(each) for result in seeds.values() for each in result.outcome.predictions["patient"]}
        parts["test"]["patients"] = len(patients)
    return {
        "name": _common([one["name"] for one in every.values()]),
        "origin": {key: _common([one["origin"].get(key) for one in every.values()]) for key in first["origin"]},
        "sha256": combined([one["sha256"] for one in every.values()]),
        "content": {key: combined([one["content"][key] for one in every.values()]) for key in first["content"]},
        "parts": parts,
        "paths": {unit(name, key): path for name, one in every.items() for key, path in one["paths"].items()},
    }


def _protocol(seeds: Seeds) -> dict[str, Any]:
    """Settings, which must be the same; the seed of the evaluation and the weights of teachers may be each seed's."""
    every = {name: result.about["protocol"] for name, result in seeds.items()}
    (first, one), task = next(iter(every.items())), next(iter(seeds.values())).task
    for name, other in every.items():
        apart = [key for key in {**one, **other} if key not in ("seed", "teachers") and one.get(key) != other.get(key)]
        if apart:
            raise G2LError(
                f"task {task} was run with different settings in {first} and {name} ({', '.join(apart)}); evaluate all "
                "seeds with one set of settings"
            )
    teachers = {
        name: combined([str(other["teachers"].get(name)) for other in every.values()])
        for name in one.get("teachers", {})
    }
    return {**one, "seed": _text([other.get("seed") for other in every.values()]), "teachers": teachers}


def _run(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    versions = [run["versions"] for run in runs]
    packages = list(dict.fromkeys(package for one in versions for package in one))
    return {
        "command": " && ".join(dict.fromkeys(run["command"] for run in runs)),
        "seed": _text([run["seed"] for run in runs]),
        "versions": {package: _text([one.get(package) for one in versions]) for package in packages},
        "finished": max(run["finished"] for run in runs),
        "identity": combined([run["identity"] for run in runs]),
        "methods": runs[0]["methods"],
    }


def _common(values: list[Any], otherwise: Callable[[list[Any]], Any] = list) -> Any:
    return values[0] if all(value == values[0] for value in values) else otherwise(values)


def _text(values: list[Any]) -> Any:
    """The one value, or all different ones in a line."""
    return _common(values, lambda several: ", ".join(dict.fromkeys(map(str, several))))
