"""g2l report: results -> report.html, metrics.json, metrics.csv."""

import csv
import io
import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from g2l import __version__
from g2l.errors import G2LError
from g2l.evaluation.report.measured import Measured, measure_all
from g2l.evaluation.report.study import make_study
from g2l.evaluation.report.words import counted
from g2l.evaluation.results import Result, read_results
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


def write_metrics(folder: Path) -> None:
    """metrics.json and metrics.csv of all results in `folder`, into it. G2LError: as `make_report`."""
    from g2l.evaluation.report.ranking import ranks

    measured = measure_all(make_study(read_results([folder]), None), progress=_bar)
    rows = measured.rows()
    _write(folder / JSON, _json(measured, rows, ranks(measured).get("values", {})))
    _write(folder / CSV, _csv(rows))


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


def _json(measured: Measured, rows: list[dict[str, Any]], ranks: dict[str, Any]) -> str:
    content = {
        "format": FORMAT,
        "g2l": __version__,
        "level": LEVEL,
        "resamples": measured.resamples,
        "seed": measured.seed,
        "reference": measured.study.reference,
        "encoders": measured.study.encoders,
        "ranks": ranks,
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
