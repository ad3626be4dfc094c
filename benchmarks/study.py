"""The study: does distillation do what it claims, and which recipe is best, on tissue that you have.

    python benchmarks/study.py --data $G2L_DATA/patches --out runs/study

DATA holds patches (JPEG or PNG) and one CSV: path, label, group (patches of one origin: a patient, a field), and centre
if there are several. For every seed the groups are split into three: a teacher learns the labels of the first part,
students of a quarter of its size are distilled on the second without labels, and all are judged on the third, whose one
half the probes are fitted to. Everything is done by `g2l fit`, `g2l evaluate` and `g2l report`, whose configs stay in
OUT. A study that was interrupted goes on; what is done is not repeated.

OUT/report/report.html shows it; table.md, figure.svg and results.json say it in short.
"""

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from scaled.plan import BUDGETS
from scaled.whole import Study

from g2l.errors import G2LError
from g2l.slides.lock import alone


def main() -> None:
    """Run what is missing, then judge."""
    given = arguments()
    started = datetime.now(UTC)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        with alone(given.out / ".lock", given.out, "study", G2LError):
            budget, out = given.budget, given.out.resolve()
            study = Study(given.data, out, given.seeds, BUDGETS[budget], budget, given.jobs, given.arms)
            study.train_and_judge()
            print(study.finish(given.slides, started))
    except (G2LError, OSError) as error:
        if os.environ.get("G2L_DEBUG"):
            raise
        sys.exit(f"study: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("study: interrupted; the same command goes on")


def arguments() -> argparse.Namespace:
    """The command line."""
    root = os.environ.get("G2L_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(root, "patches") if root else None)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", choices=list(BUDGETS), default="small")
    parser.add_argument("--arms", nargs="+", help="only these, beside log-sum faithful; default: all")
    parser.add_argument("--jobs", type=int, default=0, help="trainings at once; default: one per core, on a GPU one")
    slides = Path(root, "slides") if root else None
    parser.add_argument(
        "--slides", type=Path, default=slides, help="folder of the four breast sections; none: --slides="
    )
    given = parser.parse_args()
    if given.data is None:
        parser.error("name the patches with --data, or set G2L_DATA")
    if given.seeds < 1 or given.jobs < 0:
        parser.error("--seeds and --jobs count from 1")
    if given.slides is not None and str(given.slides) == ".":
        given.slides = None
    return given


if __name__ == "__main__":
    main()
