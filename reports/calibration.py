"""Calibration: how well predicted probabilities match the shares of raters who chose each emotion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import rel_entr, softmax

from corpora.utterances import SHARES
from metric import PROBABILITIES

N_BINS = 15
SMALLEST = 1e-9  # probability; the divergence of a probability of 0 is infinite


def calibrate(rows: pd.DataFrame, prior: np.ndarray, temperature: float = 1.0) -> dict[str, Any]:
    """Calibration of the rows of predictions.csv and, with a `temperature`, of the probabilities without it.

    `prior`, shape = (7,), are the mean shares of the training utterances, the constant prediction of `kl_constant`.
    """
    p, shares = (rows[[*names]].to_numpy(np.float64) for names in (PROBABILITIES, SHARES))
    constant = np.broadcast_to(prior, p.shape)
    found = figures(p, shares) | {"kl_constant": divergence(constant, shares)}
    if temperature != 1:
        found["without_temperature"] = figures(softmax(temperature * np.log(p.clip(SMALLEST)), axis=1), shares)
    return found


def figures(p: np.ndarray, shares: np.ndarray) -> dict[str, Any]:
    """Figures of predicted probabilities and raters' shares, both shape = (N, 7), to four decimals.

    - `ece`: expected calibration error (Guo et al. 2017, equation 3), with the share of raters as the accuracy
    - `brier`: the mean squared distance (Brier 1950)
    - `kl`: the mean Kullback-Leibler divergence of the shares from p, in nats
    - `bins`: number of windows, mean probability and mean share in each non-empty bin of 15 equal bins of probability
    """
    top = p.argmax(axis=1)[:, None]
    pairs = pd.DataFrame({"p": np.take_along_axis(p, top, 1)[:, 0], "share": np.take_along_axis(shares, top, 1)[:, 0]})
    number = (pairs["p"] * N_BINS).astype(int).clip(upper=N_BINS - 1)
    bins = pairs.groupby(number).mean().assign(n=number.value_counts())
    error = ((bins["p"] - bins["share"]).abs() * bins["n"]).sum() / len(p)
    return {
        "ece": round(float(error), 4),
        "brier": round(float(((p - shares) ** 2).sum(axis=1).mean()), 4),
        "kl": divergence(p, shares),
        "bins": bins.round(4).to_dict("records"),
    }


def divergence(p: np.ndarray, shares: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of the shares from p, in nats, to four decimals."""
    return round(float(rel_entr(shares, p.clip(SMALLEST)).sum(axis=1).mean()), 4)
