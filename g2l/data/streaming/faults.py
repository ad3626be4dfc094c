"""What could not be read: recorded where it happens, gathered where the run is."""

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

from g2l.errors import SlideError

STRIKES = 3  # failed patches after which a slide is read no more
MOST = 0.01  # share of patches that may fail
JUDGED_FROM = 1000  # patches, so that three failures of one bad slide do not stop a run
RECENT = 20_000  # patches: what is longer ago counts half, so that a mount lost after days is noticed too
SHOWN = 20  # slides in the message that ends a run


class Fault(NamedTuple):
    """A read that failed.

    number, attempt: the patch. what: recovered (the second try succeeded), replaced (the number's next attempt took its
    place), dropped (the same, and the slide is read no more by this process). reason: the error in one line.
    """

    slide: str
    path: str
    number: int
    attempt: int
    what: Literal["recovered", "replaced", "dropped"]
    reason: str


class Strikes:
    """Failed patches of every slide in one process. A copy in another process begins anew."""

    def __init__(self, most: int | None) -> None:
        """Args: most: failed patches after which a slide is dropped; None: never."""
        self._most = most
        self._count: Counter[int] = Counter()
        self._lock = Lock()
        self.dropped: set[int] = set()
        self.in_a_row = 0  # whoever reads a patch sets it back

    def add(self, slide: int) -> bool:
        """Count a failed patch. Returns whether this one drops the slide."""
        with self._lock:
            self.in_a_row += 1
            self._count[slide] += 1
            if self._count[slide] != self._most:
                return False
            self.dropped.add(slide)
            return True

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._most,)


@dataclass
class Record:
    """One slide: failed patches, reads that succeeded at the second try, processes that dropped it, the last reason."""

    slide: str
    path: str
    failed: int = 0
    recovered: int = 0
    dropped: int = 0
    last_reason: str = ""


class Ledger:
    """All faults of a run on this process and its workers, by slide; on disk as a table.

    Attributes:
        file: the table (CSV), written anew with every fault.
        dropping: slides are dropped after three failed patches. Then they count for no more than three, since each
            worker process fails as often before it drops one.
    """

    def __init__(self) -> None:
        self.file: Path | None = None
        self.dropping = True
        self._records: dict[str, Record] = {}
        self._seen = self._failed = 0.0

    def add(self, faults: Iterable[Fault], patches: int) -> None:
        """Enter a batch of so many patches.

        Raises:
            SlideError: too many failed; the message holds the table.
        """
        if self._seen >= RECENT:
            self._seen, self._failed = self._seen / 2, self._failed / 2
        self._seen += patches
        new = [self._enter(fault) for fault in faults]
        self._failed += sum(new)
        if new:
            self._write()
        if self._seen >= JUDGED_FROM and self._failed > MOST * self._seen:
            where = f" (all of them: {self.file})" if self.file else ""
            raise SlideError(
                f"{self._failed / self._seen:.1%} of the last {self._seen:.0f} patches could not be read, more than "
                f"{MOST:.0%}; check the disk, or replace or remove these slides{where}:\n{self.table()}"
            )

    def table(self) -> str:
        """The slides with failed patches, the worst first, as text."""
        failed = [one for one in self._records.values() if one.failed]
        worst = sorted(failed, key=lambda one: -one.failed)
        rows = [("slide", "failed", "last reason")]
        rows += [(one.slide, str(one.failed), one.last_reason) for one in worst[:SHOWN]]
        width = max(len(row[0]) for row in rows)
        lines = [f"  {slide:<{width}}  {count:>6}  {reason}" for slide, count, reason in rows]
        return "\n".join(lines + ([f"  and {len(worst) - SHOWN} more"] if worst[SHOWN:] else []))

    def state_dict(self) -> dict[str, Any]:
        """Plain types, for the checkpoint."""
        records = [asdict(record) for record in self._records.values()]
        return {"records": records, "seen": self._seen, "failed": self._failed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where the checkpoint was."""
        self._records = {record["slide"]: Record(**record) for record in state["records"]}
        self._seen, self._failed = state["seen"], state["failed"]

    def _enter(self, fault: Fault) -> bool:
        """Whether the fault counts towards the share of failed patches."""
        record = self._records.setdefault(fault.slide, Record(fault.slide, fault.path))
        record.last_reason = fault.reason
        if fault.what == "recovered":
            record.recovered += 1
            return False
        record.failed += 1
        record.dropped += fault.what == "dropped"
        return record.failed <= STRIKES or not self.dropping

    def _write(self) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(f"{self.file.name}.tmp")
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, list(Record.__dataclass_fields__), lineterminator="\n")
            table.writeheader()
            table.writerows(asdict(record) for record in self._records.values())
        temporary.replace(self.file)
