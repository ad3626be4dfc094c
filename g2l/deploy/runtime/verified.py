"""What `g2l verify` found, as a table and a verdict."""

from dataclasses import dataclass

from g2l.deploy.runtime.formats import Format
from g2l.deploy.runtime.gates import Measured
from g2l.deploy.runtime.opened import OpenBundle
from g2l.deploy.runtime.picked import Picked
from g2l.deploy.runtime.processor import processor


@dataclass(frozen=True)
class Row:
    """One format here.

    Attributes:
        exported: smallest cosine to PyTorch on the test vector when the bundle was made.
        vector: the test vector here, against PyTorch's embeddings; None where nothing could be run.
        slides: the receiver's own patches, against one of the bundle's float32 formats.
        rate: patches per second.
        why: why it is not in the bundle, cannot run here, or failed; "" where all is well.
        ran: whether it was tried here.
    """

    format: Format
    exported: float | None = None
    vector: Measured | None = None
    slides: Measured | None = None
    rate: float = 0.0
    why: str = ""
    ran: bool = False


@dataclass(frozen=True)
class Verified:
    """What `verify` found. As text: a table, and as the last line the verdict."""

    bundle: OpenBundle
    rows: tuple[Row, ...]
    files: int
    vector: str
    picked: Picked | None = None
    reference: str = ""

    @property
    def failed(self) -> list[Row]:
        """Formats that compute something else here than the bundle says."""
        return [row for row in self.rows if row.ran and row.why]

    @property
    def exit_code(self) -> int:
        """0 when something ran and all that ran is right."""
        return int(bool(self.failed) or not any(row.ran for row in self.rows))

    def __str__(self) -> str:
        lines = [
            f"bundle {self.bundle.folder}: {self.bundle.student}, {self.bundle.digest[:16]}",
            f"{self.files} files, all as SHA256SUMS states; test vector: {self.vector}",
        ]
        if self.picked:
            count = len(self.picked.patches)
            lines.append(f"your slides: {count} patches of {self.picked.slides}, against {self.reference}")
            lines += [f"    left out: {reason}" for reason in self.picked.left_out]
        return "\n".join([*lines, *_table(self.rows, self.picked is not None), self._verdict()])

    def _verdict(self) -> str:
        if self.failed:
            return f"NOT verified: {'; '.join(f'{row.format.name}: {row.why}' for row in self.failed)}"
        ran = [row for row in self.rows if row.ran]
        if not ran:
            return "NOT verified: no format of this bundle can run here"
        first, fastest = ran[0], max(ran, key=lambda row: row.rate)
        what = "1 format" if len(ran) == 1 else f"{len(ran)} formats"
        best = f"{fastest.format.name} at {speed(fastest.rate)} patches/s"
        hint = f" (give it as --format; g2l embed takes {first.format.name})" if fastest.rate > 1.1 * first.rate else ""
        return f"verified: {what} on {processor()}; fastest here: {best}{hint}"


def _table(rows: tuple[Row, ...], slides: bool) -> list[str]:
    heads = ["format", "at export", "here", "kNN", *(["your slides", "kNN"] if slides else []), "patches/s", ""]
    cells = [heads]
    for row in rows:
        own = [*_cells(row.slides)] if slides else []
        rate = speed(row.rate) if row.rate else "-"
        verdict = "passed" if not row.why else "FAILED" if row.ran else row.why.partition(":")[0]
        cells.append([row.format.name, _cosine(row.exported), *_cells(row.vector), *own, rate, verdict])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[-1] = 0
    lines = [
        "  ".join(
            cell.ljust(width) if at in (0, len(line) - 1) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    reasons = [f"    {row.format.name}: {row.why}" for row in rows if row.why]
    return [
        *lines,
        "(smallest cosine to PyTorch's float32 embeddings; share of patches with the same kNN label)",
        *reasons,
    ]


def _cells(measured: Measured | None) -> tuple[str, str]:
    if measured is None or measured.min_cosine != measured.min_cosine:
        return "-", "-"
    return _cosine(measured.min_cosine), f"{measured.knn_agreement:.1%}"


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


def speed(rate: float) -> str:
    """Patches per second to three figures or so."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"
