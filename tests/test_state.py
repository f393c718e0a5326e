import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import save_model
from small_runs import content

import main as program
from training.configuration import names_of
from training.options import MODEL, TEST, TRAINING
from training.run import CHECKPOINT
from training.state import FORMAT_1_OPTIONS, load_weights, save_tensors, snapshot
from utils import InputError, read_json, write_json

# Weights


def test_weights_come_back_and_misfits_are_named(tmp_path):
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    save_tensors(model.state_dict(), tmp_path / "model.pth")
    load_weights(other, tmp_path / "model.pth")
    assert torch.equal(model.weight, other.weight)
    with pytest.raises(InputError, match=r"model\.pth: .* has shape"):
        load_weights(torch.nn.Linear(4, 2), tmp_path / "model.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="no state dict"):
        load_weights(model, tmp_path / "list.pth")


def test_safetensors_of_earlier_versions_are_taken_where_they_agree(tmp_path):
    model, other = torch.nn.Conv2d(3, 2, 3), torch.nn.Conv2d(3, 2, 3)
    save_tensors(model.state_dict(), tmp_path / "model.pth")
    save_model(model, str(tmp_path / "model.safetensors"))
    load_weights(other, tmp_path / "model.pth")
    (tmp_path / "model.pth").unlink()
    third = torch.nn.Conv2d(3, 2, 3)
    load_weights(third, tmp_path / "model.pth")
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
        assert torch.equal(third.state_dict()[name], tensor)

    save_tensors(torch.nn.Conv2d(3, 2, 3).state_dict(), tmp_path / "model.pth")
    with pytest.raises(InputError, match=r"model\.safetensors: holds other weights than model\.pth beside it"):
        load_weights(third, tmp_path / "model.pth")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(InputError, match=r"model\.safetensors: not a file of weights alone"):
        load_weights(third, tmp_path / "model.pth")


def test_a_flipped_bit_of_the_weights_is_noticed(tmp_path):
    model = torch.nn.Linear(100, 100)
    save_tensors(model.state_dict(), tmp_path / "model.pth")
    content = bytearray((tmp_path / "model.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.pth: not a file of weights alone \(the checksum of .* does not fit"):
        load_weights(model, tmp_path / "model.pth")


# Checkpoints

NEWER = sorted(names_of(MODEL, TRAINING, TEST) - FORMAT_1_OPTIONS)


def digest_of_format_1(configuration: dict) -> str:
    """What checkpoints of the earlier version hold in place of the run's options."""
    decisive = {name: configuration[name] for name in FORMAT_1_OPTIONS if name in configuration}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize(
    ("lacking", "digested"),
    [
        (NEWER, "all"),
        ([*NEWER, "select", "precision"], "those in the configuration"),
        ([*NEWER, "select", "precision"], "all"),
    ],
    ids=["complete", "fewer options", "fewer options in the configuration alone"],
)
def test_a_run_goes_on_from_a_checkpoint_of_the_earlier_version(stopped, finished, tmp_path, lacking, digested):
    folder = shutil.copytree(stopped, tmp_path / "run")
    complete = read_json(folder / "configuration.json")
    configuration = {name: value for name, value in complete.items() if name not in lacking}
    write_json(folder / "configuration.json", configuration)
    earlier = torch.load(folder / CHECKPOINT, weights_only=True)
    earlier["progress"]["best"] = float("inf")  # which the history tells since
    earlier |= {"format": 1, "run": digest_of_format_1(complete if digested == "all" else configuration)}
    torch.save(earlier, folder / CHECKPOINT)
    assert program.main(["--resume", str(folder)]) == 0
    assert content(folder) == content(finished)


def test_a_checkpoint_of_the_earlier_version_and_another_run_is_refused(stopped, tmp_path, capsys):
    folder = shutil.copytree(stopped, tmp_path / "run")
    earlier = torch.load(folder / CHECKPOINT, weights_only=True)
    other = read_json(folder / "configuration.json") | {"seed": 99}
    torch.save(earlier | {"format": 1, "run": digest_of_format_1(other)}, folder / CHECKPOINT)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert program.main(["--resume", str(folder)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {folder / CHECKPOINT}: the checkpoint of a run with another configuration")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_snapshot_is_equal_and_shares_nothing():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], 0.5)
    content = {"model": model.state_dict(), "scheduler": scheduler.state_dict(), "history": [{"epoch": 1}]}
    copied = snapshot(content, "cpu")
    assert copied["scheduler"] == content["scheduler"]
    assert copied["scheduler"]["milestones"] is not scheduler.milestones
    assert type(copied["model"]) is type(content["model"])
    assert copied["model"]._metadata == content["model"]._metadata
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.zero_()
    content["history"][0]["epoch"] = 2
    assert torch.equal(copied["model"]["weight"], before)
    assert copied["history"] == [{"epoch": 1}]
