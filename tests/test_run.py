import json

import numpy as np
import pytest
import torch

from corpora.annotation import Annotation
from dataset import Utterances, WindowDataset
from loss import make_loss
from training.configuration import as_json
from training.engine import build_model, train_step
from training.options import parse_args
from training.run import Run
from utils import InputError

LOSS = make_loss("normal", 0.66, 0.99, np.ones(7, dtype=int))
N = 12


def make_run(folder, *options: str, arousal: float = 3.0) -> Run:
    """A run of a text-only model on random sentence embeddings, four steps an epoch."""
    small = ("--modality", "text", "--hidden_size", "4", "--num_layers", "1", "--batch_size", "3", "--optim", "sgd")
    args, _ = parse_args([*small, *options])
    folder.mkdir(exist_ok=True)
    (folder / "configuration.json").write_text(json.dumps(as_json(args)))
    rng = np.random.default_rng(0)
    soft = rng.dirichlet(np.ones(7), N).astype(np.float32)
    ratings = np.full(N, arousal, dtype=np.float32)
    ids = [f"Sess01_script01_F{i:03d}" for i in range(N)]
    numbers = np.zeros(N, dtype=np.int64)
    annotation = Annotation(ids, numbers, numbers, np.eye(7, dtype=np.float32)[soft.argmax(1)], soft, ratings, ratings)
    utterances = Utterances(annotation, None, torch.randn(N, 768, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    return Run(folder, args, build_model(args), WindowDataset(utterances, np.arange(N), 8, soft_targets=True))


def train(run: Run) -> list[float]:
    """All epochs of a run; the losses that were reported to it."""
    losses = []
    with run.displayed(), run.explaining_failures():
        for epoch in run.epochs():
            run.trained.train()
            for batch in run.batches(epoch):
                losses.append(train_step(run.trained, batch, LOSS, run.optimizer).item())
                run.log(torch.tensor(losses[-1]))
                run.save_or_stop()
            run.end_epoch(None)
    return losses


def test_every_step_is_logged_and_an_epochs_loss_is_their_mean(tmp_path):
    run = make_run(tmp_path / "run", "--epochs", "2")
    losses = train(run)
    assert len(losses) == run.step == 8
    means = [row["train_loss"] for row in run.progress.history]
    assert means == pytest.approx([np.mean(losses[:4]), np.mean(losses[4:])], rel=1e-6)


def test_a_loss_that_is_not_finite_names_its_step_and_windows(tmp_path):
    with pytest.raises(InputError, match=r"the loss is nan at step 1 \(windows Sess01_script01_F0\d\d, ") as raised:
        train(make_run(tmp_path / "run", "--epochs", "2", arousal=float("nan")))
    assert "holds no weights yet" in str(raised.value)


def test_weights_that_are_not_finite_after_the_last_step_are_noticed(tmp_path):
    run = make_run(tmp_path / "run", "--epochs", "1", "--batch_size", "12")
    run.optimizer.param_groups[0]["lr"] = torch.inf  # 0 * inf is not a number
    with pytest.raises(InputError, match="the weights are not finite after step 1: training stopped"):
        train(run)


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    whole = make_run(tmp_path / "whole", "--epochs", "2")
    train(whole)
    begun = make_run(tmp_path / "part", "--epochs", "2", "--save_every", "3")
    batches = begun.batches(1)
    begun.trained.train()
    with begun.displayed():
        for batch, _ in zip(batches, range(3), strict=False):
            begun.log(train_step(begun.trained, batch, LOSS, begun.optimizer))
            begun.save_or_stop()
    begun.saving.wait()
    resumed = make_run(tmp_path / "part", "--epochs", "2")
    assert (resumed.progress.epoch, resumed.progress.step) == (1, 3)
    train(resumed)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
