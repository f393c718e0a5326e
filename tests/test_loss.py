"""The losses: the published ones' numbers, class weights, and arousal and valence by the CCC."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from windows import ccc

from loss import ccc_loss, class_balanced_weights, make_loss


@pytest.fixture
def pair(reference):
    arrays = {name: torch.from_numpy(values) for name, values in reference("loss.npz").items()}
    prediction = (arrays["emotion_pred"].log(), arrays["arousal_pred"], arrays["valence_pred"])
    return prediction, (arrays["emotion"], arrays["arousal"], arrays["valence"]), arrays["class_counts"].numpy()


@pytest.mark.parametrize("lam", [0.5, 0.66, 0.75, 0.8, 0.9])
def test_normal_equals_the_published_loss(lam, pair, reference):
    prediction, target, counts = pair
    loss = make_loss("normal", lam, 0.9, counts)(prediction, target)
    assert loss.item() == pytest.approx(reference("loss.json")[f"normal_{lam}"], rel=1e-6)


@pytest.mark.parametrize("beta", [0.8, 0.9, 0.99, 0.999])
def test_cbloss_equals_the_published_loss(beta, pair, reference):
    prediction, target, counts = pair
    expected = reference("loss.json")
    np.testing.assert_allclose(class_balanced_weights(counts, beta), expected[f"cb_weight_{beta}"], rtol=1e-5)
    loss = make_loss("cbloss", 0.9, beta, counts)(prediction, target)
    assert loss.item() == pytest.approx(expected[f"cb_{beta}"], rel=1e-6)


def test_a_class_that_does_not_occur_gets_a_finite_weight_and_a_warning():
    with pytest.warns(UserWarning, match="disgust, fear"):
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


@pytest.mark.parametrize(("prediction", "target"), [([3, 3], [1, 4]), ([1, 4], [3, 3]), ([3, 3], [3, 3]), ([3], [1])])
def test_ccc_loss_is_finite_for_constant_batches(prediction, target):
    prediction, target = (torch.tensor(values).float()[:, None] for values in (prediction, target))
    loss = ccc_loss(prediction.requires_grad_(), target)
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
    affect = [1 - ccc(prediction[i], target[i]) for i in (1, 2)]
    assert both - mse == pytest.approx(0.75 * sum(affect), rel=1e-4)
    squared = sum(F.mse_loss(prediction[i], target[i]).item() for i in (1, 2))
    assert both - concordance == pytest.approx(0.75 * squared, rel=1e-4)
