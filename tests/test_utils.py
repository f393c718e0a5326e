import json
import os
import stat

import pytest
import torch

import utils
from utils import (
    InputError,
    atomic_write,
    find_run,
    load_weights,
    new_folder,
    read_json,
    run_command,
    save_safetensors,
    save_weights,
)


def test_a_failed_write_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_write_replaces_the_file_with_usual_permissions(tmp_path):
    for content in ("one", "둘"):
        with atomic_write(tmp_path / "a.txt") as file:
            file.write(content)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == content
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_full_disk_is_one_clear_line(tmp_path):
    with (
        pytest.raises(InputError, match=r"a\.txt: cannot be written \(No space left"),
        atomic_write(tmp_path / "a.txt"),
    ):
        raise OSError(28, os.strerror(28))
    assert not list(tmp_path.iterdir())


def test_folders_are_never_reused(tmp_path):
    folders = [new_folder(tmp_path / "exp", "run") for _ in range(3)]
    assert [folder.name for folder in folders] == ["run", "run-2", "run-3"]


def test_run_command_turns_bad_input_into_a_line_and_leaves_bugs_alone(capsys):
    def fail() -> None:
        raise InputError("file.csv, row 3: found this")

    def bug() -> None:
        raise KeyError("bug")

    assert run_command(lambda: None) == 0
    assert run_command(fail) == 2
    assert capsys.readouterr().err == "error: file.csv, row 3: found this\n"
    with pytest.raises(KeyError, match="bug"):
        run_command(bug)


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


def test_runs_are_found_by_name_and_by_path(tmp_path):
    folder = new_folder(tmp_path / "exp", "run")
    (folder / "configuration.json").write_text("{}")
    assert find_run(tmp_path / "exp", "run") == find_run(tmp_path / "other", str(folder)) == folder


def test_read_json_refuses_what_is_no_object(tmp_path):
    (tmp_path / "a.json").write_text("3")
    with pytest.raises(InputError, match="expected a JSON object"):
        read_json(tmp_path / "a.json")


def test_configuration_written_is_the_one_read(tmp_path):
    content = {"test_split": [1, 2], "name": "청자"}
    utils.write_json(tmp_path / "c.json", content)
    assert read_json(tmp_path / "c.json") == content
    assert "청자" in (tmp_path / "c.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8")) == content
