"""Cox regression on mean embeddings; scikit-survival is GPL-3.0 and so optional. Letters: P patients, D width."""

from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.measures.survival import concordance

COMPONENTS = 64
PENALTIES = tuple(float(value) for value in np.logspace(4, -1, 11))  # the largest first: it wins a tie


def need_scikit_survival() -> None:
    """ConfigError when scikit-survival is not installed."""
    if find_spec("sksurv") is None:
        raise ConfigError(
            "survival: the method cox needs scikit-survival (GPL-3.0); pip install 'g2l[survival]', or give "
            "methods: [abmil]"
        )


def fit_cox(
    means: NDArray[np.float64],
    time: NDArray[np.float64],
    event: NDArray[np.bool_],
    train: NDArray[np.int64],
    val: NDArray[np.int64],
) -> tuple[NDArray[np.float64], dict[str, Any], list[str]]:
    """Ridge-penalised Cox regression on principal components; the penalty with the best C-index on val.

    Embeddings are standardised and turned to at most 64 components by the training patients alone: with more columns
    than deaths the partial likelihood has no maximum worth having.

    Args:
        means: (P, D) of all parts. time, event: (P,); those of the test part are not read. train, val: numbers.
    Returns:
        (P,) log hazard ratios, what was chosen, notes.
    Raises:
        CohortError: no penalty gives a fit.
    """
    need_scikit_survival()
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv
    from threadpoolctl import threadpool_limits

    notes: list[str] = []
    with threadpool_limits(limits=1):  # few rows: threads only wait for each other
        components = max(1, min(COMPONENTS, len(train) - 1, means.shape[1]))
        turn = make_pipeline(StandardScaler(), PCA(components, svd_solver="full")).fit(means[train])
        x = turn.transform(means)
        x = x / max(float(x[train].std()), 1e-12)
        truth = Surv.from_arrays(event[train], time[train])
        best, chosen, risk = -np.inf, {}, np.zeros(len(means))
        for penalty in PENALTIES:
            try:
                model = CoxPHSurvivalAnalysis(n_iter=200).set_params(alpha=penalty).fit(x[train], truth)
            except (ValueError, ArithmeticError):  # Newton's steps left the finite: smaller penalties would too
                break
            guess = model.predict(x)
            score = concordance(guess[val], time[val], event[val])
            known = bool(np.isfinite(score))
            if not known:
                notes = ["Cox: the validation part has no comparable pair; the largest penalty was taken"]
            if not chosen or score > best:
                best, risk = score if known else np.inf, guess
                chosen = {
                    "penalty": penalty,
                    "components": components,
                    "C-index": score if known else None,
                    "on": "C-index of the validation part",
                }
    if not chosen:
        raise CohortError(f"survival: Cox regression finds no fit on {len(train)} patients; use more patients")
    return risk, chosen, notes
