import pytest
import torch

from training.state import load_weights, save_safetensors, save_weights
from utils import InputError


def test_weights_come_back_and_misfits_are_named(tmp_path):
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    save_weights(model, tmp_path / "model.pth")
    load_weights(other, tmp_path / "model.pth")
    assert torch.equal(model.weight, other.weight)
    with pytest.raises(InputError, match=r"model\.pth: .* has shape"):
        load_weights(torch.nn.Linear(4, 2), tmp_path / "model.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="no state dict"):
        load_weights(model, tmp_path / "list.pth")


def test_safetensors_are_taken_where_they_agree(tmp_path):
    model, other = torch.nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last), torch.nn.Conv2d(3, 2, 3)
    save_weights(model, tmp_path / "model.pth")
    save_safetensors(model, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.pth")
    (tmp_path / "model.pth").unlink()
    third = torch.nn.Conv2d(3, 2, 3)
    load_weights(third, tmp_path / "model.pth")
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
        assert torch.equal(third.state_dict()[name], tensor)

    save_weights(torch.nn.Conv2d(3, 2, 3), tmp_path / "model.pth")
    with pytest.raises(InputError, match=r"model\.safetensors: holds other weights than model\.pth beside it"):
        load_weights(third, tmp_path / "model.pth")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(InputError, match=r"model\.safetensors: not a file of weights alone"):
        load_weights(third, tmp_path / "model.pth")


def test_a_flipped_bit_of_the_weights_is_noticed(tmp_path):
    model = torch.nn.Linear(100, 100)
    save_weights(model, tmp_path / "model.pth")
    content = bytearray((tmp_path / "model.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.pth: not a file of weights alone \(the checksum of .* does not fit"):
        load_weights(model, tmp_path / "model.pth")
