"""The losses: the published ones' numbers, class weights, and arousal and valence by the CCC."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from constants import EMOTIONS
from loss import ccc_loss, class_balanced_loss, class_balanced_weights, make_loss, normal_loss
from metric import ccc


@pytest.fixture
def pair(reference):
    arrays = {name: torch.from_numpy(values) for name, values in reference("loss.npz").items()}
    prediction = (arrays["emotion_pred"].log(), arrays["arousal_pred"], arrays["valence_pred"])
    return prediction, (arrays["emotion"], arrays["arousal"], arrays["valence"]), arrays["class_counts"].numpy()


@pytest.mark.parametrize("lam", [0.5, 0.66, 0.75, 0.8, 0.9])
def test_normal_equals_the_published_loss(lam, pair, reference):
    prediction, target, _ = pair
    assert normal_loss(prediction, target, lam).item() == pytest.approx(
        reference("loss.json")[f"normal_{lam}"], rel=1e-6
    )


@pytest.mark.parametrize("beta", [0.8, 0.9, 0.99, 0.999])
def test_cbloss_equals_the_published_loss(beta, pair, reference):
    prediction, target, counts = pair
    expected = reference("loss.json")
    weight = class_balanced_weights(counts, beta)
    np.testing.assert_allclose(weight, expected[f"cb_weight_{beta}"], rtol=1e-5)
    assert class_balanced_loss(prediction, target, 0.9, weight).item() == pytest.approx(
        expected[f"cb_{beta}"], rel=1e-6
    )


def test_make_loss_gives_the_loss_of_its_name(pair):
    prediction, target, counts = pair
    assert make_loss("normal", 0.5, 0.9, counts)(prediction, target) == normal_loss(prediction, target, 0.5)
    weight = class_balanced_weights(counts, 0.9)
    assert make_loss("cbloss", 0.5, 0.9, counts)(prediction, target) == class_balanced_loss(
        prediction, target, 0.5, weight
    )


def test_a_class_that_does_not_occur_gets_a_finite_weight_and_a_warning():
    with pytest.warns(UserWarning, match="labelled disgust, fear:"):
        weight = class_balanced_weights(np.array([0, 40, 20, 0, 30, 100, 10]), 0.99)
    assert weight.isfinite().all()
    assert weight[0] == weight[3] == weight[6] == weight.max()  # happy is the rarest that occurs
    assert weight[5] == weight.min()


def test_losses_and_gradients_stay_finite_when_a_probability_underflows():
    for name in ("normal", "cbloss"):
        logits = torch.tensor([[200.0, 0, 0, 0, 0, 0, 0]], requires_grad=True)
        affect = torch.tensor([[3.0]])
        target = (torch.tensor([[0.0, 1, 0, 0, 0, 0, 0]]), affect, affect)
        loss = make_loss(name, 0.66, 0.9, np.ones(7, dtype=int))((logits.log_softmax(1), affect, affect), target)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


# Arousal and valence by the CCC


def ratings(seed: int, n: int = 6) -> torch.Tensor:
    return torch.rand(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4 + 1


def test_ccc_loss_is_one_minus_the_metric_and_its_gradient_that_of_differences():
    prediction, target = ratings(0).requires_grad_(), ratings(1)
    assert ccc_loss(prediction, target).item() == pytest.approx(1 - ccc(prediction.detach(), target), abs=1e-6)
    assert ccc_loss(target, target).item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.gradcheck(ccc_loss, (prediction, target))


@pytest.mark.parametrize("constant", ["prediction", "target", "both", "one window"])
def test_ccc_loss_is_finite_for_constant_batches(constant):
    n = 1 if constant == "one window" else 4
    prediction, target = ratings(0, n).float(), ratings(1, n).float()
    prediction = torch.full_like(prediction, 3) if constant in ("prediction", "both") else prediction
    target = torch.full_like(target, 3) if constant in ("target", "both") else target
    prediction.requires_grad_()
    loss = ccc_loss(prediction, target)
    loss.backward()
    assert loss.item() == pytest.approx(1, abs=1e-6)
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("name", ["normal", "cbloss"])
def test_affect_losses_take_the_place_of_the_mse(name, pair):
    prediction, target, counts = pair
    mse, both, concordance = (
        make_loss(name, 0.25, 0.9, counts, affect=affect)(prediction, target).item()
        for affect in ("mse", "mse_ccc", "ccc")
    )
    assert make_loss(name, 0.25, 0.9, counts)(prediction, target).item() == mse
    affect = [1 - ccc(prediction[i], target[i]) for i in (1, 2)]
    assert both - mse == pytest.approx(0.75 * sum(affect), rel=1e-4)
    squared = sum(F.mse_loss(prediction[i], target[i]).item() for i in (1, 2))
    assert both - concordance == pytest.approx(0.75 * squared, rel=1e-4)


@pytest.mark.parametrize("affect", ["ccc", "mse_ccc"])
def test_a_small_batch_is_learnt_by_heart(affect):
    torch.manual_seed(0)
    emotion, target = torch.eye(7)[:4], (torch.eye(7)[:4], ratings(1, 4).float(), ratings(2, 4).float())
    loss_function = make_loss("normal", 0.5, 0.9, np.ones(7, dtype=int), affect=affect)
    logits, *affects = (torch.zeros_like(emotion), *(torch.randn(4, 1) for _ in range(2)))
    weights = [w.requires_grad_() for w in (logits, *affects)]
    optimizer = torch.optim.Adam(weights, lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        loss = loss_function((logits.log_softmax(1), *(4 * a.sigmoid() + 1 for a in affects)), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


def test_class_balanced_weights_of_kemdy20s_counts():
    """Its single majority labels; weights of eq. 2 with n in units of the rarest class, computed by hand."""
    counts = dict(zip(EMOTIONS, (61, 144, 121, 43, 156, 11_120, 1_183), strict=True))
    n = {"disgust": 1, "angry": 3, "sad": 2, "fear": 1, "surprise": 3, "neutral": 258, "happy": 27}
    expected = [(1 - 0.99) / (1 - 0.99 ** n[emotion]) for emotion in EMOTIONS]
    weights = class_balanced_weights(np.array([*counts.values()]), 0.99)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert weights[EMOTIONS.index("fear")] / weights[EMOTIONS.index("neutral")] == pytest.approx(92.5, abs=0.1)
