"""Simulated results of every kind of task, written and read as g2l evaluate does: no network has seen any of this.

Encoders have a hidden skill; patients have a hidden difficulty that all encoders feel, so that differences are paired.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from g2l.evaluation.results import Result, place, read_results, write_result
from g2l.evaluation.tasks.task import Outcome


class Simulated(NamedTuple):
    """An encoder: how well it tells classes apart, millions of parameters, images per second."""

    name: str
    skill: float
    parameters: float
    speed: float


class Reported(NamedTuple):
    """A report's folder, the results behind it, and what was said at its end."""

    folder: Path
    results: list[Result]
    said: str


ENCODERS = (
    Simulated("simulated-giant", 2.0, 1134.8, 11.2),
    Simulated("simulated-large", 1.9, 303.3, 38.0),
    Simulated("simulated-student", 1.85, 85.7, 131.0),
    Simulated("simulated-small", 1.1, 21.6, 402.0),
    Simulated("simulated-random", 0.35, 21.6, 398.0),
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def known(task: str, rows: int) -> dict[str, int]:
    """The publisher of the nuclei names no patients."""
    return {} if task == "nuclei" else {"patients": rows // 20}


def about(task: str, encoder: Simulated, paths: dict[str, str] | None = None, **counts: int) -> dict[str, Any]:
    return {
        "encoder": {
            "parameters": int(encoder.parameters * 1e6),
            "embed_dim": 1024,
            "images_per_second": encoder.speed,
            "device": "cpu, 2 threads",
            "source": {"name": encoder.name, "licence": "Apache-2.0", "file": "made up", "sha256": sha(encoder.name)},
        },
        "data": {
            "name": f"simulated {task}",
            "origin": {"licence": "CC0-1.0", "citation": "none: drawn from a random number generator"},
            "sha256": sha(task),
            "parts": {part: {"rows": rows} | known(task, rows) for part, rows in counts.items()},
            "paths": paths or {},
        },
        "protocol": {"task": {"class": "Simulated", "k": 20}, "embedding": {"precision": "32-true"}, "seed": 0},
        "run": {
            "command": f"python -m g2l evaluate --config simulated.yaml --out results/{encoder.name}",
            "versions": {"g2l": "0.0", "torch": "2.12.1", "scikit-learn": "1.8.0"},
            "seed": 0,
            "finished": "2020-01-01T00:00:00+00:00",
        },
    }


def logits(classes: int, patients: int, each: int, skill: float, task: str, encoder: str):
    """Patients, truth and (U, C) scores; truth and difficulty are those of the task, noise is the encoder's."""
    shared = np.random.default_rng(list(task.encode()))
    owner = np.repeat(np.arange(patients), each)
    truth = shared.integers(0, classes, len(owner))
    hard = shared.normal(scale=0.8, size=(patients, classes))[owner] + shared.normal(size=(len(owner), classes))
    noise = np.random.default_rng(list((task + encoder).encode())).normal(scale=0.5, size=hard.shape)
    return np.array([f"case-{number:03d}" for number in owner]), truth, skill * np.eye(classes)[truth] + hard + noise


def classified(task: str, encoder: Simulated, names: list[str], patients: int, each: int, unit: Any, **more) -> Outcome:
    from g2l.evaluation.measures.classification import measure_classification

    owner, truth, scores = logits(len(names), patients, each, encoder.skill, task, encoder.name)
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    classes = np.array(names)
    predictions = {
        "id": np.array([f"{patient}/{number:05d}.png" for number, patient in enumerate(owner)]),
        "patient": owner,
        "truth": classes[truth],
        "predicted": classes[shares.argmax(1)],
    } | {f"p_{name}": shares[:, number] for number, name in enumerate(names)}
    primary = "AUC" if unit == "slide" else "balanced accuracy"
    return Outcome(unit, predictions, measure_classification, primary, **more)


def patches(task: str, encoder: Simulated, folder: Path) -> dict[str, Outcome]:
    names = ["adipose", "lymphocytes", "mucus", "stroma", "tumour", "normal mucosa"]
    notes = [
        "validation carved from train: 30 of 150 patients",
        "2 slides also occur in the distillation of simulated-student",
    ]
    head = {"chosen": {"C": 0.01, "on": "balanced accuracy of the validation part"}, "notes": notes}
    weaker = encoder._replace(skill=0.85 * encoder.skill)
    return {
        "linear": classified(task, encoder, names, 40, 25, "patch", **head),
        "knn": classified(task, weaker, names, 40, 25, "patch", chosen={"k": 20}, notes=notes),
    }


def binary(task: str, encoder: Simulated, folder: Path) -> dict[str, Outcome]:
    chosen = {"C": 0.1, "on": "balanced accuracy of the validation part"}
    return {"linear": classified(task, encoder, ["benign", "malignant"], 24, 20, "patch", chosen=chosen)}


def slides(task: str, encoder: Simulated, folder: Path) -> dict[str, Outcome]:
    chosen = {"epoch": 17, "validation loss": 0.412}
    return {"abmil": classified(task, encoder, ["luminal", "her2", "basal"], 60, 1, "slide", chosen=chosen)}


def few(task: str, encoder: Simulated, folder: Path) -> dict[str, Outcome]:
    return {"linear": classified(task, encoder, ["benign", "malignant"], 6, 30, "patch", notes=["a small cohort"])}


def drawn(encoder: Simulated, task: str) -> np.random.Generator:
    return np.random.default_rng(list((task + encoder.name).encode()))


def tissue(number: int, label: int) -> np.ndarray:
    """A picture to tell apart: a colour for each class, blobs for each image."""
    rng = np.random.default_rng(number)
    colour = np.array([(222, 170, 200), (150, 110, 180), (235, 220, 235), (200, 120, 150)][label % 4])
    picture = np.tile(colour, (96, 96, 1)) + rng.normal(scale=6, size=(96, 96, 3))
    y, x = np.mgrid[:96, :96]
    for cx, cy, r in rng.uniform((4, 4, 3), (92, 92, 9), (14, 3)):
        picture[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = (92, 60, 130)
    return picture.clip(0, 255).astype(np.uint8)


def retrieval(task: str, encoder: Simulated, folder: Path) -> dict[str, Outcome]:
    from g2l.evaluation.measures.retrieval import measure_retrieval

    names = ["gland", "nerve", "stroma", "vessel"]
    owner, truth, scores = logits(4, 30, 10, encoder.skill, task, encoder.name)
    order = np.argsort(-scores, axis=1)
    place_of_truth = (order == truth[:, None]).argmax(1)
    ids = np.array([f"{patient}/{number:05d}.png" for number, patient in enumerate(owner)])
    predictions = {
        "id": ids,
        "patient": owner,
        "hit_1": (place_of_truth == 0).astype(np.int64),
        "hit_3": (place_of_truth <= 1).astype(np.int64),
        "hit_5": (place_of_truth <= 2).astype(np.int64),
        "vote_5": (place_of_truth == 0).astype(np.int64),
        "average_precision": 1 / (1 + place_of_truth),
    }
    rng = drawn(encoder, task)
    examples = []
    for query in (3, 57, 111, 160):
        near = [int(rng.choice(np.flatnonzero(truth == order[query, min(k // 3, 1)]))) for k in range(5)]
        examples.append(
            {"id": ids[query], "label": names[truth[query]],
             "neighbours": [{"id": ids[each], "label": names[truth[each]]} for each in near]}
        )  # fmt: skip
    return {"cosine": Outcome("patch", predictions, measure_retrieval, "Acc@1", facts={"examples": examples})}


def retrieval_paths(task: str, folder: Path) -> dict[str, str]:
    owner, truth, _ = logits(4, 30, 10, 1.0, task, "")
    paths = {}
    for number, (patient, label) in enumerate(zip(owner, truth, strict=True)):
        file = folder / "images" / f"{number:05d}.png"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tissue(number, int(label))).save(file)
        paths[f"{patient}/{number:05d}.png"] = str(file)
    return paths


def robust(task: str, encoder: Simulated, folder: Path) -> dict[str, Outcome]:
    from g2l.evaluation.measures.published import PATHOROB_INDEX, PATHOROB_K
    from g2l.evaluation.measures.robustness import Pairs, columns, measure_robustness

    rng = drawn(encoder, task)
    owner = np.repeat([f"case-{number:02d}" for number in range(36)], 12)
    p = np.array([4.0, 2.0 * encoder.skill, 2.0, 3.0])
    counts = rng.multinomial(20, p / p.sum(), len(owner))
    pairs = columns(Pairs(counts, rng.permutation(counts)))
    ids = np.array([f"{patient}/{number}" for number, patient in enumerate(owner)])
    notes = ["biology and centre are balanced"]
    table = {
        "biology": ["normal", "tumour"],
        "centres": ["north", "south", "west"],
        "counts": [[71, 73, 72], [72, 70, 74]],
    }
    facts = {"cross table": table, "k": 20, "published": PATHOROB_INDEX, "published k": PATHOROB_K}
    predictions = {"id": ids, "patient": owner} | pairs
    found = Outcome("patch", predictions, measure_robustness, "robustness index", {"k": 20}, notes, {}, facts)
    return {"neighbours": found}


def segmented(task: str, encoder: Simulated, folder: Path) -> dict[str, Outcome]:
    from g2l.evaluation.measures.segmentation import measure_segmentation

    rng, shared = drawn(encoder, task), np.random.default_rng(5)
    easy = shared.normal(scale=0.4, size=48)
    good = 1 / (1 + np.exp(-(0.5 + 0.6 * encoder.skill + easy + 0.1 * rng.normal(size=48))))
    size = shared.integers(400, 4000, 48)
    tp = (good * size).astype(int)
    columns = {"tp_nucleus": tp, "fn_nucleus": size - tp, "fp_nucleus": (0.6 * (size - tp)).astype(int)}
    ids = np.array([f"{number:03d}.png" for number in range(48)])
    pictures = {
        f"{number:03d}.png: truth (left), prediction (right)": np.hstack([tissue(number, 1), tissue(number, 1)])
        for number in range(2)
    }
    notes = ["the publisher names no patients: every image counts as one"]
    outcome = Outcome(
        "image", {"id": ids, "patient": ids} | columns, measure_segmentation, "Dice", notes=notes, pictures=pictures
    )
    return {"linear": outcome}


def survival(task: str, encoder: Simulated, folder: Path) -> dict[str, Outcome]:
    from g2l.evaluation.measures.survival import HORIZON, censoring_weights, kaplan_meier, measure_survival

    shared = np.random.default_rng(8)
    danger = shared.normal(size=140)
    time, censored = shared.exponential(30 * np.exp(-0.8 * danger)), shared.uniform(10, 80, 140)
    event, time = time <= censored, np.minimum(time, censored)
    risk = danger * encoder.skill / 2 + drawn(encoder, task).normal(size=140)
    names = np.array([f"case-{number:03d}" for number in range(140)])
    predictions = {"id": names, "patient": names, "risk": risk, "time": time, "event": event.astype(np.int64)}
    predictions |= {"weight": censoring_weights(time, event, time, event)}
    predictions |= {f"{HORIZON}{number}": np.full(140, at) for number, at in enumerate((10.0, 20.0, 30.0), 1)}
    facts = {"kaplan_meier": kaplan_meier(risk, time, event, float(np.median(risk)))}
    facts |= {
        "event_rate": {"train": {"patients": 120, "events": 70}, "test": {"patients": 140, "events": int(event.sum())}}
    }
    return {"abmil": Outcome("patient", predictions, measure_survival, "C-index", {"epoch": 9}, [], {}, facts)}


def similar(task: str, encoder: Simulated, folder: Path) -> dict[str, Outcome]:
    from g2l.evaluation.measures.similarity import measure_similarity

    owner = np.repeat([f"case-{number:02d}" for number in range(30)], 10)
    overlap = drawn(encoder, task).beta(2 * encoder.skill, 2, 300)
    ids = np.array([f"{patient}/{number}" for number, patient in enumerate(owner)])
    facts = {"linear CKA": 0.4 + 0.25 * encoder.skill, "teacher": "simulated-giant"}
    return {
        "cka": Outcome(
            "patch", {"id": ids, "patient": owner, "overlap": overlap}, measure_similarity, None, facts=facts
        )
    }


TASKS: dict[str, tuple[str, Callable[[str, Simulated, Path], dict[str, Outcome]]]] = {
    "colon tissue": ("classification", patches),
    "breast biopsies": ("classification", binary),
    "breast subtypes": ("slides", slides),
    "colon retrieval": ("retrieval", retrieval),
    "centres": ("robustness", robust),
    "nuclei": ("segmentation", segmented),
    "overall survival": ("survival", survival),
    "teacher": ("similarity", similar),
    "small cohort": ("classification", few),
}


def write_study(
    folder: Path, encoders: tuple[Simulated, ...] = ENCODERS, tasks: tuple[str, ...] = tuple(TASKS)
) -> list[Result]:
    """Write the results below `folder`, as g2l evaluate does, and read them again."""
    for task in tasks:
        kind, run = TASKS[task]
        paths = retrieval_paths(task, folder) if kind == "retrieval" else {}
        for encoder in encoders:
            for method, outcome in run(task, encoder, folder).items():
                known = about(task, encoder, paths, train=4000, val=1000, test=len(outcome.predictions["id"]))
                where = place(folder / "results", task, encoder.name) / method
                metrics = outcome.measure(outcome.predictions)
                write_result(Result(task, kind, method, encoder.name, outcome, metrics, known, where))
    return read_results([folder / "results"])
