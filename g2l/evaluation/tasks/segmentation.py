"""Segmentation: a decoder reads classes of pixels from frozen patch tokens.

Letters: `H` x `W` px of an image, B images, C classes.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.measures.segmentation import (
    CLASSES,
    FALSE,
    MISSED,
    TRUE,
    count_pixels,
    measure_segmentation,
    undefined_images,
)
from g2l.evaluation.tables.annotations import IGNORED, Codes, Legend
from g2l.evaluation.tables.table import SHOWN, Source, Table
from g2l.evaluation.tasks.task import Context, Outcome, Task
from g2l.evaluation.tasks.truth import Truth

if TYPE_CHECKING:
    from g2l.evaluation.tasks.decoders import Decoder

Rows = NDArray[np.int64]
PREDICTED = "px_"
TOKEN = 8  # px of a mask for each token's side while fitting; finer truth costs time and teaches nothing


class Segmentation(Task):
    """Dice and intersection over union of decoders on frozen patch tokens: a linear one, and a small convolutional one.

    Rows whose `image` column is the same are tiles of one image, and are judged together.
    """

    kind: ClassVar[str] = "segmentation"
    needs: ClassVar[Literal["cls", "tokens", "bag"]] = "tokens"

    def __init__(
        self,
        data: Source,
        decoders: list[Literal["linear", "convolutional"]] | None = None,
        target: Literal["classes", "instances"] = "classes",
        classes: dict[str, int] | None = None,
        ignore: list[int] | None = None,
        epochs: int = 60,
        patience: int = 8,
        batch_size: int = 16,
        lr: float = 2e-3,
        weight_decay: float = 1e-2,
        overlays: int = 6,
    ) -> None:
        """Args:
        data: images with a column `target`: the mask of each, absolute or relative to the image.
        decoders: methods; by default both.
        target: what masks hold: values of classes, or numbers of objects of one class.
        classes: name -> value in the masks; by default those of the data's source, or `nucleus` for instances.
        ignore: values of pixels that are neither trained on nor judged; by default 255.
        epochs: at most.
        patience: epochs without a better Dice on val before fitting ends.
        batch_size: images in a step.
        lr: of AdamW.
        weight_decay: of AdamW.
        overlays: test images that are drawn with the outlines of truth and prediction.
        """
        super().__init__(data)
        least = {"epochs": epochs, "patience": patience, "batch_size": batch_size}
        problems = [f"{name} is {value}, give 1 or more" for name, value in least.items() if value < 1]
        if decoders is not None and not decoders:
            problems.append("decoders is empty, give linear or convolutional")
        names = classes or dict.fromkeys(getattr(data, "classes", ()))
        if not names and target == "classes":
            problems.append("masks hold classes, but nothing names them: give classes (name: value)")
        if target == "instances" and len(names) > 1:
            problems.append(f"masks of instances have one class, not {', '.join(names)}")
        if problems:
            raise ConfigError(f"segmentation: {'; '.join(problems)}")
        self.decoders, self.target, self.classes, self.ignore = decoders, target, classes, ignore
        self.epochs, self.patience, self.batch_size = epochs, patience, batch_size
        self.lr, self.weight_decay, self.overlays = lr, weight_decay, overlays
        values = classes or {name: code for code, name in enumerate(names or ["nucleus"], start=1)}
        self._legend = Legend(values, [IGNORED] if ignore is None else ignore, target == "instances")

    def check(self, table: Table) -> None:
        """Every image has a mask of its size that holds nothing but known values. Stacks were checked when written."""
        if "target" not in table.extra:
            raise CohortError(f"table {table.name} has no column target; give the path of each image's mask in it")
        bare = table.ids[np.array([not str(path).strip() for path in table.extra["target"].tolist()])]
        if len(bare):
            raise CohortError(
                f"table {table.name}: {len(bare)} of {len(table)} images have no mask ({', '.join(bare[:SHOWN])}); "
                "give them one in the column target, or take them out"
            )
        problems = []
        truth = Truth(table, self._legend)
        for row in np.flatnonzero(truth.rows < 0).tolist():
            try:
                truth.check(row)
            except CohortError as error:
                problems.append(str(error))
        if problems:
            more = f"; and {len(problems) - 3} more like these" if len(problems) > 3 else ""
            raise CohortError(f"table {table.name}: {'; '.join(problems[:3])}{more}")

    def run(self, context: Context) -> dict[str, Outcome]:
        """Fit each decoder on train, keep the epoch of the best Dice on val, predict test, and only then look at its
        masks.

        Raises:
            CohortError: train or val has no pixel of any class.
        """
        import torch

        from g2l.evaluation.tasks.decoders import HEADS, Training, fit_decoder

        truth = Truth(context.table, self._legend)
        split, features = context.split, context.features
        seen = {part: truth.pixels(rows) for part, rows in (("train", split.train), ("val", split.val))}
        for part, pixels in seen.items():
            if not pixels[1:].any():
                raise CohortError(
                    f"table {context.table.name}: the masks of {part} have no pixel of {', '.join(truth.names)}; "
                    "correct the split or the classes"
                )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        training = Training(self.epochs, self.patience, self.batch_size, self.lr, self.weight_decay)
        grid = features.tokens(split.train[:1]).shape[1]
        side = min(truth.side(split.train), TOKEN * grid)
        outcomes = {}
        for name in self.decoders or list(HEADS):

            def judge(decoder: "Decoder") -> float:
                predicted = self._predict(context, decoder, truth, split.val, device)
                return measure_segmentation(self._counted(truth, context.table, split.val, predicted))["Dice"]

            fitted = fit_decoder(
                HEADS[name],
                len(truth.names) + 1,
                split.train,
                features.tokens,
                lambda rows: truth.batch(rows, side),
                judge,
                training,
                context.seed,
                device,
                lambda text, name=name: context.report(f"{name} decoder: {text}"),
            )
            predicted = self._predict(context, fitted.decoder, truth, split.test, device)
            columns = self._counted(truth, context.table, split.test, predicted)
            outcomes[name] = Outcome(
                unit="image",
                predictions=columns,
                measure=measure_segmentation,
                primary="Dice",
                chosen={
                    "epoch": fitted.epoch,
                    "by": "Dice on val",
                    "Dice on val": fitted.dice[fitted.epoch - 1],
                    "parameters": sum(parameter.numel() for parameter in fitted.decoder.parameters()),
                    "class weights": "none: soft Dice weighs every class the same",
                    "fitted at px": side,
                },
                notes=self._notes(context, seen["train"], truth.names),
                pictures=self._pictures(context, truth, predicted),
                facts={
                    "Dice on val by epoch": fitted.dice,
                    "images left out of a class's Dice": undefined_images(columns),
                    "Dice if all pixels were of one class": self._constant(truth, context),
                },
            )
        return outcomes

    def _predict(self, context: Context, decoder: "Decoder", truth: Truth, rows: Rows, device: Any) -> dict[int, Codes]:
        """Row -> codes of the square that the encoder saw, at the image's own resolution."""
        from g2l.evaluation.tasks.decoders import predict

        found = {}
        for first in range(0, len(rows), self.batch_size):
            batch = rows[first : first + self.batch_size]
            tokens = context.features.tokens(batch)
            sides = [truth.size(row)[2] for row in batch.tolist()]
            for side in sorted(set(sides)):
                of = np.flatnonzero(np.array(sides) == side)
                found |= dict(zip(batch[of].tolist(), predict(decoder, tokens[of], side, device), strict=True))
        return found

    def _counted(self, truth: Truth, table: Table, rows: Rows, predicted: dict[int, Codes]) -> dict[str, NDArray]:
        """Columns of predictions, a row for each image: px right, wrong and missed of each class, and px predicted."""
        images = table.extra.get("image", table.ids)[rows]
        names, firsts, number = np.unique(images, return_index=True, return_inverse=True)
        classes = len(truth.names)
        counts = np.zeros((len(names), 4, classes), np.int64)
        for row, image in zip(rows.tolist(), number.tolist(), strict=True):
            counts[image, :3] += count_pixels(truth.codes(row), predicted[row], classes)
            counts[image, 3] += np.bincount(predicted[row].ravel(), minlength=classes + 1)[1:]
        columns: dict[str, NDArray] = {"id": names, "patient": table.units[rows[firsts]]}
        true = counts[:, :3:2].sum(axis=(0, 1))
        columns[CLASSES] = np.full(len(names), (true > 0).sum())
        for kind, prefix in enumerate((TRUE, FALSE, MISSED, PREDICTED)):
            columns |= {prefix + name: counts[:, kind, code] for code, name in enumerate(truth.names)}
        return columns

    def _constant(self, truth: Truth, context: Context) -> dict[str, float]:
        """Class -> Dice of an answer that knows nothing: this class everywhere."""
        rows = context.split.test
        sides = {row: truth.size(row)[2] for row in rows.tolist()}
        answers = {}
        for code, name in enumerate(truth.names, start=1):
            everywhere = {row: np.full((side, side), code, np.uint8) for row, side in sides.items()}
            answers[name] = measure_segmentation(self._counted(truth, context.table, rows, everywhere))["Dice"]
        return answers

    def _notes(self, context: Context, pixels: NDArray[np.int64], names: list[str]) -> list[str]:
        shares = pixels[1:] / max(1, pixels.sum())
        stated = ", ".join(f"{name} {share:.1%}" for name, share in zip(names, shares.tolist(), strict=True))
        notes = [f"share of the training pixels: {stated}; background has no Dice of its own"]
        unseen = [name for name, count in zip(names, pixels[1:].tolist(), strict=True) if not count]
        if unseen:
            notes.append(f"train has no pixel of {', '.join(unseen)}, which no decoder can learn")
        said = context.table.origin.get("patients", "")
        if said and not any(said in note for note in context.split.notes):
            notes.append(f"patients: {said}")
        return notes

    def _pictures(self, context: Context, truth: Truth, predicted: dict[int, Codes]) -> dict[str, NDArray[np.uint8]]:
        """Some test images, drawn by the seed."""
        from g2l.evaluation.embedding.images import read_image, square
        from g2l.evaluation.tasks.overlays import side_by_side

        table, rows = context.table, context.split.test
        drawn = np.random.default_rng(context.seed).permutation(rows)[: 4 * self.overlays]
        # tiles at an image's edge are partly filled up: others show more
        whole = [float((truth.codes(row) != IGNORED).mean().round(1)) for row in drawn.tolist()]
        drawn = drawn[np.argsort(-np.array(whole), kind="stable")][: self.overlays]
        return {
            f"{table.ids[row]}: truth left, prediction right": side_by_side(
                square(read_image(str(table.paths[row]), int(table.rows[row]))), truth.codes(row), predicted[row]
            )
            for row in drawn.tolist()
        }
