"""Objectives compared on the embedded cohort: the same steps, teacher and student, several seeds.

    python benchmarks/objectives.py --out runs/objectives --seeds 3

Every run is `g2l fit` on configs/demo.yaml with the few settings that an arm names; a run that has ended is not
repeated. Prints mean and range over the seeds.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parents[1]
DEMO = ["--config", str(ROOT / "configs/demo.yaml")]
ARMS = {
    "log-sum": [],
    "log-sum, same view": ["--model.terms.logsum.view=student"],
    "unified": ["--config", str(ROOT / "configs/demo_unified.yaml")],
}
COLUMNS = ("knn", "linear", "cka", "robustness_index")


def run(arm: str, seed: int, out: Path) -> dict[str, dict[str, Any]]:
    """The summary of one run."""
    folder = out / f"{arm.replace(', ', '_').replace(' ', '_')}-{seed}"
    summary = folder / "summary.json"
    if not summary.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        settings = [f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}"]
        settings.append("--trainer.enable_progress_bar=false")
        again = ["--ckpt_path=last"] if (folder / "checkpoints/last.ckpt").is_file() else []
        with (folder / "log.txt").open("a") as log:
            command = [sys.executable, "-m", "g2l", "fit", *DEMO, *ARMS[arm], *settings, *again]
            done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise SystemExit(f"{arm}, seed {seed} ended with {done.returncode}; see {folder / 'log.txt'}")
    return json.loads(summary.read_text())


def cell(values: list[float | None]) -> str:
    """Mean and range."""
    known = [value for value in values if value is not None]
    if not known:
        return "undefined"
    return f"{mean(known):.3f} ({min(known):.3f}-{max(known):.3f})"


def table(results: dict[str, list[dict[str, dict[str, Any]]]]) -> str:
    """Markdown: the teacher, the untrained student, and the student of each arm."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]

    def line(name: str, rows: list[dict[str, Any]]) -> None:
        lines.append(f"| {name} | " + " | ".join(cell([row[column] for row in rows]) for column in COLUMNS) + " |")

    first = next(iter(results.values()))
    line("teacher", [summary["teacher"] for summary in first])
    line("student before", [summary["student_before"] for summary in first])
    for arm, summaries in results.items():
        line(arm, [summary["student_after"] for summary in summaries])
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    given = parser.parse_args()
    results: dict[str, list[dict[str, dict[str, Any]]]] = {arm: [] for arm in given.arms}
    for seed in range(given.seeds):
        for arm in given.arms:
            results[arm].append(run(arm, seed, given.out.absolute()))
            print(f"{arm}, seed {seed}: {results[arm][-1]['student_after']}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
