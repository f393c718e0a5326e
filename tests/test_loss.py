import numpy as np
import pytest
import torch

from constants import EMOTIONS
from loss import class_balanced_loss, class_balanced_weights, make_loss, normal_loss


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
    with pytest.raises(ValueError, match="focal"):
        make_loss("focal", 0.5, 0.9, counts)


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


def test_class_balanced_weights_of_kemdy20s_counts():
    """Its single majority labels; weights of eq. 2 with n in units of the rarest class, computed by hand."""
    counts = dict(zip(EMOTIONS, (61, 144, 121, 43, 156, 11_120, 1_183), strict=True))
    n = {"disgust": 1, "angry": 3, "sad": 2, "fear": 1, "surprise": 3, "neutral": 258, "happy": 27}
    expected = [(1 - 0.99) / (1 - 0.99 ** n[emotion]) for emotion in EMOTIONS]
    weights = class_balanced_weights(np.array([*counts.values()]), 0.99)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert weights[EMOTIONS.index("fear")] / weights[EMOTIONS.index("neutral")] == pytest.approx(92.5, abs=0.1)
