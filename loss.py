"""Losses: of emotion (`normal`: KL divergence, `cbloss`: class-balanced BCE), plus arousal and valence (MSE, CCC)."""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from constants import EMOTIONS

Outputs = tuple[Tensor, Tensor, Tensor]  # emotion (B, 7), arousal (B, 1), valence (B, 1)
Loss = Callable[[Outputs, Outputs], Tensor]

CCC_EPS = 1e-8  # keeps the CCC of a batch whose ratings are all the same from 0 / 0


def ccc_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - CCC (concordance correlation coefficient, Lin 1989, with population variances) of a batch, a scalar.

    CCC = 2 cov(p, t) / (var(p) + var(t) + (mean(p) - mean(t))^2), which is 0 where p or t is constant. Loss and
    gradient are finite for every batch. Both tensors are float, shape = (B, 1).
    """
    p, t = prediction - prediction.mean(), target - target.mean()
    distance = (prediction.mean() - target.mean()) ** 2
    return 1 - 2 * (p * t).mean() / ((p * p).mean() + (t * t).mean() + distance + CCC_EPS)


def affect_loss(prediction: Outputs, target: Outputs, kind: str = "mse") -> Tensor:
    """The loss of arousal plus that of valence, a scalar: `mse`, `ccc` (1 - CCC of the batch), `mse_ccc`, both, or
    `none`, 0 with a gradient of 0, which processes that average gradients need."""
    if kind == "none":
        return 0 * (prediction[1] + prediction[2]).sum()
    if kind == "mse":
        return F.mse_loss(prediction[1], target[1]) + F.mse_loss(prediction[2], target[2])
    concordance = ccc_loss(prediction[1], target[1]) + ccc_loss(prediction[2], target[2])
    return concordance if kind == "ccc" else concordance + affect_loss(prediction, target)


def normal_loss(log_probabilities: Tensor, target: Tensor) -> Tensor:
    """KL(soft target || prediction), summed over classes and averaged over windows; float, shape = (B, 7)."""
    return F.kl_div(log_probabilities, target, reduction="batchmean")


def class_balanced_loss(log_probabilities: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy weighted by class, mean over windows and classes; `weight` is float, shape = (7,)."""
    return F.binary_cross_entropy(log_probabilities.exp(), target, weight=weight)


def class_balanced_weights(class_counts: np.ndarray, beta: float) -> Tensor:
    """Weights (1 - beta) / (1 - beta^n) of Cui et al. 2019, eq. 2, as published: float32, shape = (7,).

    n is a class's count (the training windows whose last utterance it labels) divided by the smallest count, rounded
    down. A class that does not occur gets the weight of the rarest class that does, with a warning.
    """
    counts = np.asarray(class_counts)
    if absent := [emotion for emotion, count in zip(EMOTIONS, counts, strict=True) if count == 0]:
        what = "cbloss gives it the weight of the rarest class that occurs"
        warnings.warn(f"no training window is labelled {', '.join(absent)}: {what}", stacklevel=2)
    smallest = counts[counts > 0].min(initial=counts.max(initial=1))
    n = np.maximum(counts // smallest, 1)
    return torch.tensor((1 - beta) / (1 - beta**n), dtype=torch.float32)


def make_loss(
    name: str, lam: float, beta: float, counts: np.ndarray, device: torch.device | str = "cpu", affect: str = "mse"
) -> Loss:
    """lam * (loss of the emotion) + (1 - lam) * `affect_loss`, as a function of a prediction and its target.

    The prediction's emotion holds log-probabilities, the target's soft labels whose rows sum to 1. `name` is `normal`
    or `cbloss`, which keeps the `class_balanced_weights` of `counts` and `beta` on `device`; `affect` is a kind of
    `affect_loss`.
    """
    emotion_loss = normal_loss
    if name == "cbloss":
        emotion_loss = partial(class_balanced_loss, weight=class_balanced_weights(counts, beta).to(device))

    def loss(prediction: Outputs, target: Outputs) -> Tensor:
        return lam * emotion_loss(prediction[0], target[0]) + (1 - lam) * affect_loss(prediction, target, affect)

    return loss
