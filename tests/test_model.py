"""The model: the published one's numbers, options, gradients, and what signals do to it."""

import math
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from conftest import ROOT

from loss import make_loss
from model import MATE
from training.cpu_cnn import ChunkedCNN
from training.options import make_options

B = 4
# Batch norm over a batch of 4 magnifies rounding: in train mode float64 itself is 4e-4 away from the reference, and
# half a unit in the last place of the LSTM's outputs, at random, moves float32 by up to 1e-3
TRAIN_TOLERANCE = 3e-3


def reference_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that tests/reference/README.md defines by parameter name."""
    state = {}
    for name, tensor in model.state_dict().items():
        g, shape = np.random.default_rng(zlib.crc32(name.encode())), tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            values = np.array(1)
        elif name.endswith("running_var"):
            values = g.uniform(0.5, 1.5, shape)
        elif name.endswith("running_mean"):
            values = g.normal(0, 0.1, shape)
        elif len(shape) == 1:
            values = float(name.endswith(".weight")) + g.normal(0, 0.1, shape)
        else:
            values = g.normal(0, 1, shape) * math.sqrt(2 / math.prod(shape[1:]))
        state[name] = torch.from_numpy(np.asarray(values)).to(tensor.dtype)
    return state


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    g = np.random.default_rng(7)
    drawn = {
        "audio": g.normal(0, 1, (B, 8, 1, 229, 313)),
        "text": g.normal(0, 0.5, (B, 8, 1, 768)),
        "emotion": g.dirichlet(np.ones(7), B),
        "arousal": g.uniform(1, 5, (B, 1)),
        "valence": g.uniform(1, 5, (B, 1)),
    }
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in drawn.items()}


@pytest.mark.parametrize("tag", ["uni", "bi", "default"])
@pytest.mark.parametrize("chunked", [False, True], ids=["plain", "chunked"])
def test_equals_the_published_model(tag, chunked, inputs, reference):
    expected, described = reference(f"model_{tag}.npz"), reference("model.json")[tag]
    model = MATE(**described["args"])
    if chunked:  # as main.py runs it on a CPU
        model.audio_embedding = ChunkedCNN(*model.audio_embedding).to(memory_format=torch.channels_last)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == described["state_dict"]
    assert list(shapes) == list(described["state_dict"])
    assert sum(p.numel() for p in model.parameters()) == described["parameters"]

    model.load_state_dict(reference_weights(model))
    for mode in ("eval", "train"):
        model.train(mode == "train")
        log_emotion, arousal, valence = model(inputs["audio"], inputs["text"], log=True)
        for name, output in (("emotion", log_emotion.exp()), ("arousal", arousal), ("valence", valence)):
            tolerance = 1e-5 if mode == "eval" else TRAIN_TOLERANCE
            np.testing.assert_allclose(output.detach(), expected[f"{mode}_{name}"], rtol=0, atol=tolerance)

    target = (inputs["emotion"], inputs["arousal"], inputs["valence"])
    loss = make_loss("normal", 0.66, 0.9, np.ones(7, dtype=int))((log_emotion, arousal, valence), target)
    assert loss.item() == pytest.approx(float(expected["train_loss"]), abs=TRAIN_TOLERANCE)
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms == pytest.approx(described["grad_norm"], rel=5e-3)  # those of float64 are off by 2.3e-3


SMALL = {"hidden_size": 8, "num_layers": 1}


def test_a_left_out_modality_has_no_parameters_and_is_not_read():
    text_only, audio_only = MATE(**SMALL, modality="text"), MATE(**SMALL, modality="audio")
    assert not any(name.startswith("audio_embedding") for name in text_only.state_dict())
    assert text_only.lstm.input_size == 768
    assert audio_only.lstm.input_size == 816
    for audio, text in ((None, torch.randn(1, 8, 768)), (torch.randn(1, 8, 229, 313), None)):
        emotion, arousal, valence = (text_only if audio is None else audio_only).eval()(audio, text)
        assert emotion.sum().item() == pytest.approx(1, abs=1e-5)
        assert 1 <= arousal.item() <= 5
        assert 1 <= valence.item() <= 5


def test_a_run_is_built_from_its_options_and_the_shape_of_its_speech_embeddings():
    changed = {"backbone": "gru", "hidden_size": 8, "num_layers": 1, "ws": 3, "no_concat": True, "speakers": True}
    options, data = make_options(**changed, audio="encoder"), {"speech_shape": [4, 6]}
    model = MATE.from_options(options, data)
    assert (model.backbone, model.ws, model.concat, model.uses_speakers) == ("gru", 3, False, True)
    assert model.speech_branch.layer_weights.shape == (4,)
    assert MATE.architecture(vars(options), data) == MATE.architecture(options, data)
    assert sum(p.numel() for p in MATE.from_options(make_options(), {}).parameters()) == 31_424_377


def test_bfloat16_gives_float32_probabilities_and_ratings_near_the_exact_ones(inputs):
    model = MATE(hidden_size=32)
    model.load_state_dict(reference_weights(model))
    exact = model.eval()(inputs["audio"], inputs["text"])
    with torch.autocast("cpu", torch.bfloat16):
        coarse = model(inputs["audio"], inputs["text"])
    for ours, expected in zip(coarse, exact, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, rtol=0, atol=0.1)
    assert not torch.equal(coarse[0], exact[0])
    assert coarse[0].sum(dim=1).tolist() == pytest.approx([1] * B, abs=1e-6)


SIGNALLED = """
import signal
import torch
from model import MATE

torch.manual_seed(0)
model, text, handled = MATE(modality="text", hidden_size=32, num_layers=2), torch.randn(16, 8, 768), []
signal.signal(signal.SIGALRM, lambda *_: handled.append(1))
for interval, steps in ((0, 1), (0.003, 60)):
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    for _ in range(steps):
        model.zero_grad()
        emotion, arousal, valence = model(None, text, log=True)
        (emotion.square().sum() + arousal.sum() + valence.sum()).backward()
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(sum(p.grad.double().abs().sum().item() for p in model.parameters()))
print(len(handled) > 20, torch.backends.mkldnn.enabled)
"""


def test_signals_that_are_handled_during_a_step_change_nothing():
    """oneDNN's LSTM corrupts the memory when it is interrupted."""
    settings = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True, "check": True}
    done = subprocess.run([sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, **settings)
    undisturbed, signalled, *others = done.stdout.split()
    assert (signalled, others) == (undisturbed, ["True", "True"])


# Beyond MATE: who speaks, and speech embeddings

BEYOND = {**SMALL, "ws": 3, "text_dim": 5}
OPTIONS = [{"speakers": True}, {"audio": "encoder", "speech_shape": (4, 6)}]
OPTIONS.append(OPTIONS[0] | OPTIONS[1] | {"backbone": "gru", "bidirectional": True})
OPTIONS.append(OPTIONS[0] | OPTIONS[1] | {"modality": "audio", "concat": False})


def of_modality(options: dict) -> dict:
    return BEYOND | {"modality": "audio_text" if "audio" in options else "text"} | options


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_of_options_beyond_mate_are_those_of_differences(options):
    torch.manual_seed(0)
    model = MATE(**of_modality(options)).double().eval()
    audio = torch.randn(2, 3, *options.get("speech_shape", (1, 1)), dtype=torch.float64)
    text, speakers = torch.randn(2, 3, 5, dtype=torch.float64), torch.randint(1, 3, (2, 3))
    names = [name for name, _ in model.named_parameters() if name.startswith(("speech_branch", "speaker_embedding"))]
    assert names
    for name in names:
        model.get_parameter(name).data += 0.1  # no two layers alike

    def outputs(*weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(model, given, (audio, text, True, speakers))

    weights = [model.get_parameter(name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(outputs, weights, fast_mode=True)


def test_padding_tells_nothing_and_layers_are_mixed_by_their_weights():
    torch.manual_seed(0)
    model = MATE(**of_modality(OPTIONS[2])).eval()
    assert not model.speaker_embedding.weight[0].any()
    branch, audio = model.speech_branch, torch.randn(2, 3, 4, 6)
    assert not branch(torch.zeros_like(audio)).any()
    with torch.no_grad():
        branch.layer_weights[2] = 100
    expected = branch.projection(torch.nn.functional.layer_norm(audio[:, :, 2], (6,)))
    torch.testing.assert_close(branch(audio), expected)
