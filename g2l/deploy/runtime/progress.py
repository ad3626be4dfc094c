"""The bar of `embed`: patches done of all patches of all slides, as far as these are known."""

from tqdm import tqdm

LOOK_S = 0.5  # between two drawings: a log file gets these too


class Progress:
    """How many patches a slide has is known when it is opened; of those that are not yet, the mean is taken."""

    def __init__(self, slides: int) -> None:
        """Args: slides: that are not done yet."""
        self._waiting, self._opened, self._planned, self._total, self._failed = slides, 0, 0, 0, 0
        self._slides = slides
        self._bar = tqdm(
            total=None,
            desc="embed",
            unit=" patches",
            mininterval=LOOK_S,
            disable=not slides,
            bar_format="{desc}: {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}, {rate_fmt}{postfix}",
        )

    def opened(self, patches: int, left: int) -> None:
        """A slide has so many patches, of which so many are left to embed."""
        self._waiting -= 1
        self._opened += 1
        self._planned += patches
        self._total += left
        self._show()

    def embedded(self, patches: int) -> None:
        """So many patches are done."""
        self._bar.update(patches)

    def ended(self, failed: bool, left: int = 0) -> None:
        """A slide is over. Args: left: patches of a failed one that will not come."""
        self._failed += failed
        self._total -= left
        self._show()

    def never_opened(self) -> None:
        """A slide failed before its patches were known."""
        self._waiting -= 1
        self.ended(failed=True)

    def total(self) -> int:
        """Patches of this run: those of opened slides, and the mean of these for each that waits."""
        mean = self._planned / self._opened if self._opened else 0.0
        return self._total + round(mean * self._waiting)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _show(self) -> None:
        self._bar.total = self.total() or None
        notes = [f"slide {self._slides - self._waiting} of {self._slides}"]
        if self._failed:
            notes.append(f"{self._failed} failed")
        if self._waiting:
            notes.append("total estimated")
        self._bar.set_postfix_str(", ".join(notes), refresh=False)
