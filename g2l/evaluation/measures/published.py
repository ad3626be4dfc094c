"""Values that others published, to print beside a user's own: context, never a target. Scores of other programs, other
versions of them, or other parts of the data are not comparable.
"""

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

# Balanced accuracy of a linear probe in eva 0.0.1 (kaiko): BACH, CRC, MHIST, PCam test.
KAIKO_PROBE: dict[str, dict[str, float]] = {
    "ViT-S16 random": {"BACH": 0.410, "CRC": 0.617, "MHIST": 0.501, "PCam": 0.728},
    "ViT-S16 ImageNet": {"BACH": 0.695, "CRC": 0.935, "MHIST": 0.831, "PCam": 0.849},
    "kaiko S16": {"BACH": 0.797, "CRC": 0.943, "MHIST": 0.828, "PCam": 0.893},
    "kaiko L14": {"BACH": 0.870, "CRC": 0.930, "MHIST": 0.809, "PCam": 0.898},
}

# GPFM (Ma et al. 2024) against UNI over its 72 tasks; means over tasks. Its C-index over 39 tasks rests on inverted
# censorship labels and is left out.
GPFM: dict[str, float] = {
    "mean rank": 1.6,
    "mean rank of UNI": 3.7,
    "firsts": 42,
    "mean metric": 0.833,
    "mean metric of UNI": 0.818,
    "slide AUC": 0.891,
    "patch AUC": 0.946,
    "retrieval top-1": 0.906,
    "retrieval top-3": 0.993,
    "retrieval top-5": 0.995,
}
