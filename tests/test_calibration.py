"""Calibration: errors and divergences by plain loops, and what a temperature changes."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy
from windows import make_rows

from corpora.utterances import SHARES
from metric import PROBABILITIES
from reports.calibration import calibrate
from reports.plots import plot_reliability

N_BINS = 15


@pytest.fixture(scope="module")
def rows():
    rows = make_rows(sessions=(1, 2, 3, 4))
    rows.loc[0, [*PROBABILITIES]] = np.eye(7)[2]  # certain: the last bin, and a divergence that must stay finite
    return rows


def loops(p, shares):
    bins = {}
    for own, raters in zip(p, shares, strict=True):
        top = max(range(7), key=lambda emotion: own[emotion])
        bins.setdefault(min(int(own[top] * N_BINS), N_BINS - 1), []).append((own[top], raters[top]))
    ece = sum(len(pairs) * abs(np.subtract(*np.mean(pairs, axis=0))) for pairs in bins.values()) / len(p)
    brier = sum(sum((own[k] - raters[k]) ** 2 for k in range(7)) for own, raters in zip(p, shares, strict=True)) / len(
        p
    )
    kl = np.mean([entropy(raters, np.maximum(own, 1e-9)) for own, raters in zip(p, shares, strict=True)])
    return {"ece": ece, "brier": brier, "kl": kl}, dict(sorted(bins.items()))


def test_the_figures_are_those_of_plain_loops(rows):
    p, shares = rows[[*PROBABILITIES]].to_numpy(float), rows[SHARES].to_numpy(float)
    prior = np.array([0.02, 0.1, 0.1, 0.03, 0.1, 0.5, 0.15])
    found, (expected, bins) = calibrate(rows, prior), loops(p, shares)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=6e-5)
    assert found["kl_constant"] == pytest.approx(np.mean([entropy(raters, prior) for raters in shares]), abs=6e-5)
    assert [bin["n"] for bin in found["bins"]] == [len(pairs) for pairs in bins.values()]
    means = [np.mean(pairs, axis=0) for pairs in bins.values()]
    np.testing.assert_allclose([(bin["p"], bin["share"]) for bin in found["bins"]], means, atol=6e-5)
    points = plot_reliability(found).axes[0].collections[0]
    np.testing.assert_allclose(points.get_offsets(), means, atol=6e-5)
    assert "without_temperature" not in found


def test_the_figures_without_a_temperature_are_those_of_the_probabilities_before_it(rows):
    before = rows[1:]
    scaled = softmax(np.log(before[[*PROBABILITIES]].to_numpy(float)) / 1.7, axis=1)
    found = calibrate(before.assign(**dict(zip(PROBABILITIES, scaled.T, strict=True))), np.full(7, 1 / 7), 1.7)
    plain = calibrate(before, np.full(7, 1 / 7))
    expected = {name: plain[name] for name in ("ece", "brier", "kl")}
    assert {name: found["without_temperature"][name] for name in expected} == pytest.approx(expected, abs=2e-4)
    assert found["kl"] != pytest.approx(plain["kl"], abs=1e-2)
    assert len(plot_reliability(found).axes[0].collections) == 2
