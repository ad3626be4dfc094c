"""Survival: who dies sooner, from all slides of a patient. Letters: P patients of a part, D width."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.tables.splits import EVENTS, Split
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.bags import Bags, shown_units
from g2l.evaluation.tasks.censorship import FollowUp, read_follow_up
from g2l.evaluation.tasks.patches import check_fitting
from g2l.evaluation.tasks.task import Context, Outcome, Task

Floats = NDArray[np.float64]


class Survival(Task):
    """Risk of patients by ABMIL with discrete hazards, and by Cox regression on the mean patch."""

    kind: ClassVar[str] = "survival"
    needs: ClassVar[Literal["cls", "tokens", "bag"]] = "bag"

    def __init__(
        self,
        data: Source,
        time: str = "time",
        event: str | None = None,
        censorship: str | None = None,
        observed: Sequence[str | int] | None = None,
        methods: Sequence[Literal["abmil", "cox"]] = ("abmil", "cox"),
        intervals: int = 4,
        epochs: int = 100,
        patience: int = 10,
    ) -> None:
        """Args:
        data: slides with times and events of their patients.
        time: column with the follow-up time.
        event: column in which 1 means that the event was observed; by default `event`, unless `censorship` is given.
        censorship: column in which 1 means that the patient was censored. Parts are drawn so that each holds events
            where the column is named `event` or `censorship`.
        observed: the values that mean an observed event, where they do not say so themselves ("1:DECEASED" does).
        methods: `abmil` (attention, discrete hazards), `cox` (on the mean embedding; needs scikit-survival).
        intervals: of the discrete hazards: quantiles of the uncensored training times.
        epochs: of ABMIL at most.
        patience: epochs without a smaller validation loss after which ABMIL ends.
        """
        super().__init__(data)
        self.time, self.censorship = time, censorship
        self.event = "event" if event is None and censorship is None else event
        self.observed = None if observed is None else [str(value) for value in observed]
        self.methods, self.intervals, self.epochs, self.patience = list(methods), intervals, epochs, patience
        check_fitting("survival", self.methods, epochs, patience)

    def check(self, table: Table) -> None:
        """CohortError: no or impossible times and events; ConfigError: scikit-survival is missing."""
        if self.intervals < 2:
            raise ConfigError(f"survival: intervals is {self.intervals}; give at least 2")
        self._follow_up(table)
        if "cox" in self.methods:
            from g2l.evaluation.tasks.cox import need_scikit_survival

            need_scikit_survival()

    def check_split(self, table: Table, split: Split) -> None:
        """CohortError: a part without a patient, or without an observed event."""
        observed = self._follow_up(table).event
        for part in self.parts:
            rows = getattr(split, part)
            here = np.unique(table.units[rows])
            if not len(here):
                raise CohortError(f"table {table.name}: no patient in {part}; survival needs train, val and test")
            if not observed[rows].any():
                raise CohortError(
                    f"table {table.name}: none of the {len(here)} patients in {part} has an observed event, so it can "
                    "neither fit, choose nor judge a risk; move patients with an event there, or add some and have "
                    f"the parts drawn: a column named {' or '.join(EVENTS)} is spread over all parts"
                )

    def run(self, context: Context) -> dict[str, Outcome]:
        """Method -> outcome; one row per patient of the test part."""
        self.check_split(context.table, context.split)
        people = _people(context, self._follow_up(context.table))
        return {method: self._judge(method, context, people) for method in self.methods}

    def _follow_up(self, table: Table) -> FollowUp:
        return read_follow_up(table, self.time, self.event, self.censorship, self.observed)

    def _judge(self, method: str, context: Context, people: "_People") -> Outcome:
        from g2l.evaluation.measures import survival as measures
        from g2l.evaluation.tasks.hazards import cuts_of

        time, event, train, test = people.time, people.event, people.train, people.test
        cuts = cuts_of(time[train], event[train], self.intervals)
        fitted = self._abmil(context, people, cuts) if method == "abmil" else _cox(context, people)
        risk, notes = fitted.risk, [*people.notes, *fitted.notes]
        weight = measures.censoring_weights(time[test], event[test], time[train], event[train])
        auc = measures.auc_at(risk[test], time[test], event[test], weight, cuts)
        if np.isnan(auc).any():
            notes.append(
                f"AUC over time: undefined at {np.isnan(auc).sum()} of {len(cuts)} times that test does not cover"
            )
        predictions = {
            "id": people.names[test],
            "patient": people.names[test],
            "risk": risk[test],
            "time": time[test],
            "event": event[test].astype(np.int64),
            "weight": weight,
            **{f"{measures.HORIZON}{k + 1}": np.full(len(test), at) for k, at in enumerate(cuts.tolist())},
        }
        cut = float(np.median(risk[train]))
        facts = {
            "kaplan_meier": measures.kaplan_meier(risk[test], time[test], event[test], cut),
            "AUC at": {f"{at:.4g}": float(value) for at, value in zip(cuts.tolist(), auc, strict=True)},
            "events": {
                part: {"patients": len(of), "events": int(event[of].sum())}
                for part, of in (("train", train), ("val", people.val), ("test", test))
            },
            **fitted.facts,
        }
        return Outcome("patient", predictions, measures.measure_survival, "C-index", fitted.chosen, notes, facts=facts)

    def _abmil(self, context: Context, people: "_People", cuts: Floats) -> "_Fitted":
        import torch
        from torch import Tensor

        from g2l.evaluation.tasks.abmil import fit, predict
        from g2l.evaluation.tasks.hazards import hazard_loss, hazard_risk, interval_of

        interval = torch.from_numpy(interval_of(people.time, cuts))
        censored = torch.from_numpy(~people.event)

        def loss(logits: Tensor, unit: int) -> Tensor:
            y, c = interval[unit : unit + 1].to(logits.device), censored[unit : unit + 1].to(logits.device)
            return hazard_loss(logits[None], y, c)

        fitted = fit(
            people.bags, len(cuts) + 1, loss, people.train.tolist(), people.val.tolist(),
            epochs=self.epochs, patience=self.patience, seed=context.seed, say=context.report,
        )  # fmt: skip
        logits, attention = predict(fitted.model, people.bags, range(len(people.names)))
        shown = [int(people.test[k]) for k in shown_units(len(people.test), context.seed)]
        facts = {"attention": [people.bags.top(unit, attention[unit]) for unit in shown], "cuts": cuts.tolist()}
        return _Fitted(hazard_risk(logits.double()).numpy(), fitted.chosen, fitted.notes, facts)


class _People(NamedTuple):
    """Patients of all parts, train first; train, val, test: their numbers."""

    names: NDArray[np.str_]
    bags: Bags
    time: Floats
    event: NDArray[np.bool_]
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    notes: list[str]


class _Fitted(NamedTuple):
    """Risks of all patients, and what an outcome says of how they came about."""

    risk: Floats
    chosen: dict[str, Any]
    notes: list[str]
    facts: dict[str, Any]


def _people(context: Context, follow_up: FollowUp) -> _People:
    table, units = context.table, context.table.units
    names: list[NDArray[np.str_]] = []
    rows: list[NDArray[np.int64]] = []
    for part in ("train", "val", "test"):
        inside = getattr(context.split, part)
        here = np.unique(units[inside])
        names.append(here)
        rows += [inside[units[inside] == name] for name in here]
    first = np.array([of[0] for of in rows])
    train, val, test = np.split(np.arange(len(rows)), np.cumsum([len(here) for here in names])[:-1])
    return _People(
        names=np.concatenate(names),
        bags=Bags(context.features, table, rows),
        time=follow_up.time[first],
        event=follow_up.event[first],
        train=train,
        val=val,
        test=test,
        notes=follow_up.notes,
    )


def _cox(context: Context, people: _People) -> _Fitted:
    from g2l.evaluation.tasks.cox import fit_cox

    context.report("Cox regression on mean embeddings")
    risk, chosen, notes = fit_cox(people.bags.means(), people.time, people.event, people.train, people.val)
    return _Fitted(risk, chosen, notes, {})
