"""Losses: of emotion (`normal`: KL divergence, `cbloss`: class-balanced BCE), plus arousal and valence (MSE, CCC)."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from constants import EMOTIONS

Outputs = tuple[Tensor, Tensor, Tensor]  # emotion (B, 7), arousal (B, 1), valence (B, 1)
Loss = Callable[[Outputs, Outputs], Tensor]

CCC_EPS = 1e-8  # avoids 0 / 0 for a batch with equal ratings


def ccc_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - CCC (concordance correlation coefficient, Lin 1989, with population variances) of a batch, a scalar.

    CCC = 2 cov(p, t) / (var(p) + var(t) + (mean(p) - mean(t))^2), which is 0 where p or t is constant. Loss and
    gradient are finite for every batch. Both tensors are float, shape = (B, 1).
    """
    p, t = prediction - prediction.mean(), target - target.mean()
    distance = (prediction.mean() - target.mean()) ** 2
    return 1 - 2 * (p * t).mean() / ((p * p).mean() + (t * t).mean() + distance + CCC_EPS)


def affect_loss(prediction: Outputs, target: Outputs, kind: str = "mse") -> Tensor:
    """The loss of arousal plus that of valence, a scalar: `mse`, `ccc` (1 - CCC of the batch), `mse_ccc` (both), or
    `none`: 0 with a gradient of 0, for processes that average gradients."""
    if kind == "none":
        return 0 * (prediction[1] + prediction[2]).sum()
    if kind == "mse":
        return F.mse_loss(prediction[1], target[1]) + F.mse_loss(prediction[2], target[2])
    concordance = ccc_loss(prediction[1], target[1]) + ccc_loss(prediction[2], target[2])
    return concordance if kind == "ccc" else concordance + affect_loss(prediction, target)


def class_balanced_weights(class_counts: np.ndarray, beta: float) -> Tensor:
    """Weights (1 - beta) / (1 - beta^n) of Cui et al. 2019, eq. 2, as published: float32, shape = (7,).

    n is a class's count (the training windows whose last utterance it labels) divided by the smallest count, rounded
    down. A class that does not occur gets the weight of the rarest class that does, with a warning.
    """
    counts = np.asarray(class_counts)
    if absent := [emotion for emotion, count in zip(EMOTIONS, counts, strict=True) if count == 0]:
        weight = "cbloss uses the weight of the rarest other class"
        warnings.warn(f"no training window has the label {', '.join(absent)}; {weight}", stacklevel=2)
    smallest = counts[counts > 0].min(initial=counts.max(initial=1))
    n = np.maximum(counts // smallest, 1)
    return torch.tensor((1 - beta) / (1 - beta**n), dtype=torch.float32)


def make_loss(
    name: str, lam: float, beta: float, counts: np.ndarray, device: torch.device | str = "cpu", affect: str = "mse"
) -> Loss:
    """lam * (loss of the emotion) + (1 - lam) * `affect_loss`, as a function of a prediction and its target.

    The prediction's emotion holds log-probabilities, the target's soft labels whose rows sum to 1. `name` is `normal`,
    KL(target || prediction), summed over classes and averaged over windows, or `cbloss`, binary cross-entropy weighted
    by `class_balanced_weights`, which are on `device`, averaged over both. `affect` is a kind of `affect_loss`.
    """
    weight = class_balanced_weights(counts, beta).to(device) if name == "cbloss" else None

    def loss(prediction: Outputs, target: Outputs) -> Tensor:
        if name == "cbloss":
            of_emotion = F.binary_cross_entropy(prediction[0].exp(), target[0], weight=weight)
        else:
            of_emotion = F.kl_div(prediction[0], target[0], reduction="batchmean")
        return lam * of_emotion + (1 - lam) * affect_loss(prediction, target, affect)

    return loss
