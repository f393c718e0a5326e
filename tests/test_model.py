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

from constants import SAMPLE_RATE, n_frames
from loss import normal_loss
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
        model.audio_embedding = ChunkedCNN(*model.audio_embedding)
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
    loss = normal_loss((log_emotion, arousal, valence), target, lam=0.66)
    assert loss.item() == pytest.approx(float(expected["train_loss"]), abs=TRAIN_TOLERANCE)
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms == pytest.approx(described["grad_norm"], rel=5e-3)  # those of float64 are off by 2.3e-3


def test_channels_last_is_as_exact_as_contiguous(inputs, reference):
    """As main.py runs it: equal in evaluation, and in training as far from float64 as contiguous convolutions are."""
    expected = reference("model_uni.npz")
    outputs = {}
    for name in ("float64", "contiguous", "channels_last"):
        model = MATE(hidden_size=32)
        model.load_state_dict(reference_weights(model))
        if name == "channels_last":
            model.audio_embedding = ChunkedCNN(*model.audio_embedding).to(memory_format=torch.channels_last)
        dtype = torch.float64 if name == "float64" else torch.float32
        model, audio, text = model.to(dtype), inputs["audio"].to(dtype), inputs["text"].to(dtype)
        with torch.no_grad():
            if name == "channels_last":
                for output, figure in zip(model.eval()(audio, text), ("emotion", "arousal", "valence"), strict=True):
                    np.testing.assert_allclose(output, expected[f"eval_{figure}"], rtol=0, atol=1e-5)
            outputs[name] = torch.cat(model.train()(audio, text), dim=1).double()
    error = {name: (output - outputs["float64"]).abs().max().item() for name, output in outputs.items()}
    assert 0 < error["contiguous"] < 5e-4
    assert error["channels_last"] < 5e-4


SMALL = {"hidden_size": 8, "num_layers": 1}


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": "gru"},
        {"backbone": "gru", "bidirectional": True, "num_layers": 2},
        {"ws": 3, "text_dim": 100},
        {"sr": 8000},
        {"concat": False},
        {"modality": "audio"},
        {"modality": "text", "ws": 1},
    ],
    ids=str,
)
def test_variants_give_probabilities_and_affect_of_a_single_window(options):
    options = SMALL | options
    model = MATE(**options).eval()
    ws, sr = options.get("ws", 8), options.get("sr", SAMPLE_RATE)
    audio = torch.randn(1, ws, 229, n_frames(sr))
    text = torch.randn(1, ws, options.get("text_dim", 768))
    emotion, arousal, valence = model(audio, text)
    assert emotion.shape == (1, 7)
    assert emotion.sum().item() == pytest.approx(1, abs=1e-5)
    assert arousal.shape == valence.shape == (1, 1)
    assert 1 <= arousal.item() <= 5
    assert 1 <= valence.item() <= 5


def test_a_left_out_modality_has_no_parameters_and_is_not_read():
    text_only, audio_only = MATE(**SMALL, modality="text"), MATE(**SMALL, modality="audio")
    assert not any(name.startswith("audio_embedding") for name in text_only.state_dict())
    assert text_only.lstm.input_size == 768
    assert audio_only.lstm.input_size == 816
    text_only.eval()(None, torch.randn(1, 8, 768))
    audio_only.eval()(torch.randn(1, 8, 229, 313), None)


def test_a_run_is_built_from_its_options_and_the_shape_of_its_speech_embeddings():
    changed = {"backbone": "gru", "hidden_size": 8, "num_layers": 1, "ws": 3, "no_concat": True, "speakers": True}
    options, data = make_options(**changed, audio="encoder"), {"speech_layers": "4", "speech_dimension": "6"}
    model = MATE.from_options(options, data)
    assert (model.backbone, model.ws, model.concat, model.uses_speakers) == ("gru", 3, False, True)
    assert model.speech_branch.layer_weights.shape == (4,)
    assert MATE.architecture(vars(options), data) == MATE.architecture(options, data)
    assert sum(p.numel() for p in MATE.from_options(make_options(), {}).parameters()) == 31_424_377


def test_no_concat_takes_the_emotion_from_the_affect_heads():
    torch.manual_seed(0)
    for concat, changes in ((True, True), (False, False)):
        model = MATE(**SMALL, modality="text", concat=concat).eval()
        text = torch.randn(2, 8, 768)
        _, before, _ = model(None, text)
        with torch.no_grad():
            model.mlp_emotion[-1].bias += torch.arange(7.0)
        _, after, _ = model(None, text)
        assert (not torch.equal(before, after)) is changes


def test_log_probabilities_stay_finite_however_sure_the_model_is():
    model = MATE(**SMALL, modality="text").eval()
    with torch.no_grad():
        model.mlp_emotion[-1].bias[0] = 1000.0  # softmax of the others underflows to 0, and its logarithm to -inf
    log_emotion, _, _ = model(None, torch.randn(1, 8, 768), log=True)
    assert log_emotion.isfinite().all()
    assert log_emotion[0, 1] < -900


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
import signal, sys
import torch
from model import MATE

torch.manual_seed(0)
model, text, handled = MATE(modality="text", hidden_size=32, num_layers=2), torch.randn(16, 8, 768), []
if sys.argv[1] == "signals":
    signal.signal(signal.SIGALRM, lambda *_: handled.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
for _ in range(60):
    model.zero_grad()
    emotion, arousal, valence = model(None, text, log=True)
    (emotion.square().sum() + arousal.sum() + valence.sum()).backward()
signal.setitimer(signal.ITIMER_REAL, 0)
print(sum(p.grad.double().abs().sum().item() for p in model.parameters()), len(handled) > 20)
print(torch.backends.mkldnn.enabled)
"""


def test_signals_that_are_handled_during_a_step_change_nothing():
    """oneDNN's LSTM corrupts the memory when it is interrupted."""
    settings = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True, "check": True}
    commands = [[sys.executable, "-c", SIGNALLED, how] for how in ("signals", "none")]
    printed = [subprocess.run(command, stdout=subprocess.PIPE, **settings).stdout.split() for command in commands]
    assert [words[1:] for words in printed] == [["True", "True"], ["False", "True"]]
    assert printed[0][0] == printed[1][0]


# Beyond MATE: who speaks, and speech embeddings

BEYOND = {**SMALL, "ws": 3, "text_dim": 5}
OPTIONS = [{"speakers": True}, {"audio": "encoder", "speech_shape": (4, 6)}]
OPTIONS.append(OPTIONS[0] | OPTIONS[1] | {"backbone": "gru", "bidirectional": True})
OPTIONS.append(OPTIONS[0] | OPTIONS[1] | {"modality": "audio", "concat": False})
AFFECT = ["mse", "mse", "mse_ccc", "ccc"]  # the loss of arousal and valence beside each of these


def beyond_inputs(options: dict, n: int, dtype: torch.dtype = torch.float32) -> tuple:
    g = torch.Generator().manual_seed(0)
    audio = torch.randn(n, 3, *options.get("speech_shape", (1, 1)), generator=g, dtype=dtype)
    text = torch.randn(n, 3, 5, generator=g, dtype=dtype)
    return audio, text, True, torch.randint(1, 3, (n, 3), generator=g)


def of_modality(options: dict) -> dict:
    return BEYOND | {"modality": "audio_text" if "audio" in options else "text"} | options


def by_heart() -> tuple[torch.Tensor, ...]:
    """Labels and ratings of eight windows, no two of them alike."""
    emotion = torch.eye(8, 7).roll(1, 1)
    emotion[7] = emotion[0]
    return emotion, torch.linspace(1.5, 4.5, 8)[:, None], torch.linspace(4.5, 1.5, 8)[:, None]


@pytest.mark.parametrize(("options", "affect"), [*zip(OPTIONS, AFFECT, strict=True)], ids=str)
def test_gradients_of_options_beyond_mate_are_those_of_differences(options, affect):
    torch.manual_seed(0)
    model = MATE(**of_modality(options)).double().eval()
    audio, text, log, speakers = beyond_inputs(options, 2, torch.float64)
    names = [name for name, _ in model.named_parameters() if name.startswith(("speech_branch", "speaker_embedding"))]
    assert names
    for name in names:
        model.get_parameter(name).data += 0.1  # no two layers alike

    def outputs(*weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(names, weights, strict=True))
        prediction = torch.func.functional_call(model, given, (audio, text, log, speakers))
        return *prediction, normal_loss(prediction, [t[:2].double() for t in by_heart()], 0.5, affect)

    weights = [model.get_parameter(name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(outputs, weights, fast_mode=True)


@pytest.mark.parametrize(("options", "affect"), [*zip(OPTIONS, AFFECT, strict=True)][1:3], ids=str)
def test_options_beyond_mate_learn_a_small_batch_by_heart(options, affect):
    """From what the option adds alone: the text is the same in every window."""
    torch.manual_seed(0)
    model = MATE(**of_modality(options))
    audio, text, log, _ = beyond_inputs(options, 8)
    text, speakers = torch.zeros_like(text), torch.tensor([[a, b, c] for a in (1, 2) for b in (1, 2) for c in (1, 2)])
    target = by_heart()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = normal_loss(model(audio, text, log, speakers), target, 0.5, affect)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


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
