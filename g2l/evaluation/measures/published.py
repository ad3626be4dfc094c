"""Values that others published, to print beside a user's own: context, never a target. Scores of other programs, other
versions of them, or other parts of the data are not comparable.
"""

from collections.abc import Mapping
from typing import NamedTuple

# Robustness index of PathoROB (Koemen et al. 2025) on its three data sets.
PATHOROB_INDEX: dict[str, dict[str, float]] = {
    "Virchow2": {"TCGA": 0.822, "Camelyon": 0.806, "ESCA": 0.955},
    "H0-mini": {"TCGA": 0.794, "Camelyon": 0.718, "ESCA": 0.932},
    "H-optimus-0": {"TCGA": 0.812, "Camelyon": 0.705, "ESCA": 0.918},
    "UNI2-h": {"TCGA": 0.803, "Camelyon": 0.544, "ESCA": 0.923},
    "GigaPath": {"TCGA": 0.738, "Camelyon": 0.399, "ESCA": 0.754},
    "UNI": {"TCGA": 0.747, "Camelyon": 0.145, "ESCA": 0.902},
    "Phikon-v2": {"TCGA": 0.619, "Camelyon": 0.019, "ESCA": 0.768},
}

# Neighbours that PathoROB's program counts for these values: the median over its models of the k with the best kNN
# balanced accuracy of the biology. On TCGA it averages over pairs of two classes and two centres.
PATHOROB_K: dict[str, int] = {"TCGA": 61, "Camelyon": 11, "ESCA": 46}

# Balanced accuracy of a linear probe, mean over runs, as eva 0.0.1 (kaiko) lists it: BACH, CRC, MHIST, PCam test.
KAIKO_PROBE: dict[str, dict[str, float]] = {
    "ViT-S16 random": {"BACH": 0.410, "CRC": 0.617, "MHIST": 0.501, "PCam": 0.728},
    "ViT-S16 ImageNet": {"BACH": 0.695, "CRC": 0.935, "MHIST": 0.831, "PCam": 0.849},
    "kaiko S16": {"BACH": 0.797, "CRC": 0.943, "MHIST": 0.828, "PCam": 0.893},
    "kaiko L14": {"BACH": 0.870, "CRC": 0.930, "MHIST": 0.809, "PCam": 0.898},
}

# GPFM (Ma et al. 2024): means over the tasks of a kind. Not here: its C-index, which rests on inverted censorship
# labels, and its ranks, firsts and mean over all 72 tasks, which are of the nine encoders and the tasks it chose: a
# rank says nothing beside one among other encoders.
GPFM_SLIDES: dict[str, float] = {"AUC": 0.891}
GPFM_PATCHES: dict[str, float] = {"AUC": 0.946}
GPFM_RETRIEVAL: dict[str, float] = {"top-1": 0.906, "top-3": 0.993, "top-5": 0.995}

KAIKO = "kaiko.ai 2024, listed with eva 0.0.1 (kaiko-ai/eva); scores of different versions of eva are not comparable."
MA = "Ma et al. 2024, arXiv:2407.18449; mean over its tasks."


class Published(NamedTuple):
    """A table of others: encoder -> column -> value, and where it is from."""

    title: str
    values: Mapping[str, Mapping[str, float]]
    source: str


# Kind of task -> what was published of it. The index of PathoROB stands in the facts of its task, with its neighbours.
PUBLISHED: dict[str, list[Published]] = {
    "classification": [
        Published("balanced accuracy of a linear probe", KAIKO_PROBE, KAIKO),
        Published("patch classification of GPFM", {"GPFM": GPFM_PATCHES}, MA),
    ],
    "slides": [Published("slide classification of GPFM", {"GPFM": GPFM_SLIDES}, MA)],
    "retrieval": [
        Published(
            "retrieval of GPFM",
            {"GPFM": GPFM_RETRIEVAL},
            f"{MA} Its top-k is a weighted vote over classes, and not Acc@k.",
        )
    ],
}
