"""g2l report: results -> report.html, metrics.json, metrics.csv."""

import csv
import io
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from g2l import __version__
from g2l.errors import G2LError
from g2l.evaluation.report.alike import agreeing
from g2l.evaluation.report.measured import Measured, measure_all
from g2l.evaluation.report.study import by_unit, drawn_units, make_study
from g2l.evaluation.report.words import counted
from g2l.evaluation.results import OUTCOME, Result, read_result, read_results
from g2l.evaluation.statistics.bootstrap import FEWEST_PATIENTS, LEVEL, MOST_UNDEFINED, RESAMPLES

FORMAT = 1
HTML, JSON, CSV = "report.html", "metrics.json", "metrics.csv"


def report(results: list[str], out: str = "report", reference: str | None = None) -> str:
    """Compare encoders: metrics with intervals by patient, differences, ranks across tasks, and what lies behind them.

    Args:
        results: folders that g2l evaluate has written; all results below them are read.
        out: folder for report.html, metrics.json and metrics.csv.
        reference: encoder that differences are taken to; the largest when left out.
    """
    return make_report(read_results(results), Path(out), reference)


def make_report(results: list[Result], out: Path, reference: str | None = None, resamples: int = RESAMPLES) -> str:
    """Write the report and return what to tell the user.

    Raises:
        G2LError: results that are damaged or must not stand side by side, a folder that cannot be written.
    """
    study = make_study(results, reference)
    measured = measure_all(study, resamples, progress=_bar)
    context = page(measured)
    rows = measured.rows()
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(out / JSON, _json(measured, rows, context["ranking"].get("values", {})))
        _write(out / CSV, _csv(rows))
        _write(out / HTML, render(context))
    except OSError as error:
        raise G2LError(f"report folder {out} cannot be written ({error}); give another with --out") from error
    what = ((len(study.encoders), "encoder"), (len(study.tasks), "task"), (len(results), "result"))
    return f"{out / HTML}: " + ", ".join(counted(count, thing) for count, thing in what)


def write_metrics(
    folder: Path, made: Collection[tuple[str, str]], failed: Collection[tuple[str, str]] = ()
) -> list[str]:
    """metrics.json and metrics.csv of the results of an evaluation in its `folder`, into it.

    It may hold results of former evaluations: those that are damaged or must not stand beside the new ones are left
    out, and never a reason to fail.

    Args:
        made: task and encoder of the new ones.
        failed: those of which there is no new one: what an evaluation before left of them does not count.
    Returns:
        what was left out, why, and what to do, a sentence each.
    Raises:
        G2LError: the files cannot be written.
    """
    from g2l.evaluation.report.ranking import ranks

    found, left_out = [], []
    for file in sorted(folder.glob(f"*/*/*/{OUTCOME}")):
        try:
            found.append(read_result(file.parent))
        except G2LError as error:
            left_out.append(str(error))
    for result in [result for result in found if (result.task, result.encoder) in failed]:
        left_out.append(f"{result.folder}: it failed this time, and what lies there is of a run before")
        found.remove(result)
    found.sort(key=lambda result: (result.task, result.encoder) not in made)
    kept, others = agreeing(found)
    left_out += others
    measured = measure_all(make_study(kept), progress=_bar)
    rows = measured.rows()
    try:
        _write(folder / JSON, _json(measured, rows, ranks(measured).get("values", {}), left_out))
        _write(folder / CSV, _csv(rows))
    except OSError as error:
        raise G2LError(f"{folder} cannot be written ({error}); its results are whole: see g2l report") from error
    return left_out


def page(measured: Measured) -> dict[str, Any]:
    """All that the template shows."""
    from g2l.evaluation.report import overview, ranking
    from g2l.evaluation.report.provenance import provenance
    from g2l.evaluation.report.sections import task_section

    study = measured.study
    ranks = ranking.ranks(measured)
    return {
        "version": __version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "study": study,
        "level": f"{LEVEL:.0%}".replace("%", " %"),
        "resamples": measured.resamples,
        "seed": measured.seed,
        "fewest": FEWEST_PATIENTS,
        "most_undefined": f"{MOST_UNDEFINED:.0%}".replace("%", " %"),
        "encoders": overview.encoder_rows(study),
        "primary": overview.primary_rows(measured),
        "no_intervals": overview.why_no_intervals(measured),
        "differences": overview.difference_figure(measured),
        "ranking": ranks,
        "findings": overview.findings(measured, ranks),
        "size": ranking.size_and_speed(measured),
        "tasks": [task_section(measured, task) for task in study.tasks],
        "how": {
            "slides": [task.name for task in study.tasks if drawn_units(task.first) == "slide"],
            "unknown": [task.name for task in study.tasks if by_unit(task.first)],
        },
        "provenance": provenance(study),
    }


def render(context: dict[str, Any]) -> str:
    """The page. Everything is escaped: names and ids come from other people's files."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("g2l.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(context)


def _json(measured: Measured, rows: list[dict[str, Any]], ranks: dict[str, Any], left_out: Sequence[str] = ()) -> str:
    content = {
        "format": FORMAT,
        "g2l": __version__,
        "level": LEVEL,
        "resamples": measured.resamples,
        "seed": measured.seed,
        "reference": measured.study.reference,
        "encoders": measured.study.encoders,
        "ranks": ranks,
        "left_out": list(left_out),
        "metrics": rows,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _bar(results: Iterable[Result]) -> Iterable[Result]:
    from tqdm import tqdm

    return tqdm(list(results), unit="result", desc="resampling patients", file=sys.stderr, disable=None)
