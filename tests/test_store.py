import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from features.store import Frames, Rows, in_memory, stored
from utils import InputError

NAME, WIDTH = "log_mel-16000-float16", 3
PADDING = torch.full((1, WIDTH), -100, dtype=torch.float16)


@pytest.fixture
def wavs(tmp_path) -> dict[str, Path]:
    paths = {f"Sess01_script01_F{i:03d}": tmp_path / "wav" / f"{i}.wav" for i in range(4)}
    (tmp_path / "wav").mkdir()
    for i, path in enumerate(paths.values()):
        path.write_bytes(bytes([i] * (i + 1)))
    return paths


class Compute:
    """Instead of log-mels: as many rows of a file's first byte as it has bytes; one of 4 bytes has a central part."""

    def __init__(self) -> None:
        self.computed: list[str] = []

    def __call__(self, paths: Sequence[Path]) -> Iterator[Rows]:
        for path in paths:
            self.computed.append(path.stem)
            yield self.rows(path)

    def rows(self, path: Path) -> Rows:
        content = path.read_bytes()
        if content.startswith(b"x"):
            return InputError(f"{path}: not readable as sound")
        whole = torch.full((len(content), WIDTH), content[0], dtype=torch.float16)
        return whole, whole[:2] + 0.5 if len(content) == 4 else whole[:0]


def read(folder: Path, wavs: dict[str, Path], compute: Compute, constants: dict | None = None) -> Frames:
    return stored(folder, NAME, constants or {"sr": 16000}, wavs, [*wavs, "Sess01_script01_F999"], PADDING, compute)


def check(frames: Frames, wavs: dict[str, Path]) -> None:
    """`frames` are those of the wavs as they are now, and of a last utterance without one."""
    assert torch.equal(frames.values[:1], PADDING)
    expected = [Compute().rows(path) for path in wavs.values()]
    for (start, length, central), part in zip(frames.spans.tolist(), expected, strict=False):
        whole, middle = part
        assert torch.equal(frames.values[start : start + length], whole)
        assert torch.equal(frames.values[start + length : start + length + central], middle)
    assert frames.spans[-1, 1:].tolist() == [0, 0]
    assert frames.faults == {}


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_store_is_built_once_and_read_afterwards(tmp_path, wavs):
    first, second = Compute(), Compute()
    check(read(tmp_path / "s", wavs, first), wavs)
    assert first.computed == ["0", "1", "2", "3"]
    again = read(tmp_path / "s", wavs, second)
    check(again, wavs)
    assert second.computed == []
    assert again.values.dtype == torch.float16
    (frames,) = (path for path in (tmp_path / "s").iterdir() if path.suffix == "" and path.name != f"{NAME}.lock")
    assert frames.stat().st_size == (1 + 1 + 2 + 3 + 4 + 2) * WIDTH * 2  # padding is implied


def test_frames_in_memory_are_the_same(wavs):
    compute = Compute()
    check(in_memory(PADDING, iter([*map(compute.rows, wavs.values()), None])), wavs)


def test_only_a_wav_that_changed_is_computed_anew(tmp_path, wavs):
    before = read(tmp_path / "s", wavs, Compute())
    old = before.values.clone()
    changed, compute = list(wavs.values())[1], Compute()
    changed.write_bytes(b"\7\7\7")
    check(read(tmp_path / "s", wavs, compute), wavs)
    assert compute.computed == ["1"]
    assert torch.equal(before.values, old)  # who has the old frames mapped keeps them
    assert len(files(tmp_path / "s")) == 3


def test_a_wav_of_the_same_size_with_another_time_is_computed_anew(tmp_path, wavs):
    read(tmp_path / "s", wavs, Compute())
    path, compute = wavs["Sess01_script01_F002"], Compute()
    time = path.stat().st_mtime_ns
    path.write_bytes(b"\5\5\5")
    os.utime(path, ns=(time + 1000, time + 1000))
    check(read(tmp_path / "s", wavs, compute), wavs)
    assert compute.computed == ["2"]


def test_a_corpus_that_moved_keeps_its_store_and_a_new_wav_is_added(tmp_path, wavs):
    read(tmp_path / "s", wavs, Compute())
    (tmp_path / "wav").rename(tmp_path / "moved")
    moved = {segment: tmp_path / "moved" / path.name for segment, path in wavs.items()}
    compute = Compute()
    check(read(tmp_path / "s", moved, compute), moved)
    assert compute.computed == []
    moved["Sess01_script01_F004"] = tmp_path / "moved" / "4.wav"
    moved["Sess01_script01_F004"].write_bytes(b"\4")
    check(read(tmp_path / "s", moved, compute), moved)
    assert compute.computed == ["4"]


def test_a_wav_that_is_gone_has_no_rows(tmp_path, wavs):
    read(tmp_path / "s", wavs, Compute())
    gone, compute = wavs.pop("Sess01_script01_F001"), Compute()
    frames = stored(
        tmp_path / "s", NAME, {"sr": 16000}, wavs, ["Sess01_script01_F001", "Sess01_script01_F002"], PADDING, compute
    )
    assert gone.exists()
    assert compute.computed == []
    assert frames.spans[:, 1].tolist() == [0, 3]


def test_other_constants_give_other_frames(tmp_path, wavs):
    compute = Compute()
    for constants in ({"sr": 16000, "n_mels": 229}, {"sr": 16000, "n_mels": 128}):
        check(read(tmp_path / "s", wavs, compute, constants), wavs)
    assert compute.computed == ["0", "1", "2", "3"] * 2
    assert len(files(tmp_path / "s")) == 3


def seal(folder: Path, change) -> None:
    """Change the index's content and give it the right digest."""
    path = folder / f"{NAME}.index"
    content = json.loads(path.read_bytes().partition(b"\n")[2])
    change(content)
    text = json.dumps(content).encode()
    path.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def frames_file(folder: Path) -> Path:
    (path,) = (path for path in folder.glob(f"{NAME}-*"))
    return path


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


DAMAGES = {
    "empty": lambda folder: (folder / f"{NAME}.index").write_bytes(b""),
    "torn": lambda folder: os.truncate(folder / f"{NAME}.index", 200),
    "flipped": lambda folder: flip(folder / f"{NAME}.index"),
    "digest": lambda folder: flip(folder / f"{NAME}.index", 0),
    "foreign": lambda folder: (folder / f"{NAME}.index").write_text('{"a": 1}'),
    "pickle": lambda folder: (folder / f"{NAME}.index").write_bytes(pickle.dumps(Attack(folder / "marker"))),
    "list": lambda folder: (folder / f"{NAME}.index").write_bytes(hashlib.sha256(b"[]").hexdigest().encode() + b"\n[]"),
    "version": lambda folder: seal(folder, lambda content: content.update(version=0)),
    "bounds": lambda folder: seal(
        folder, lambda content: next(iter(content["entries"].values()))[1].__setitem__(1, 99)
    ),
    "negative": lambda folder: seal(folder, lambda c: next(iter(c["entries"].values()))[1].__setitem__(0, -1)),
    "elsewhere": lambda folder: seal(folder, lambda content: content.update(file=f"../{content['file']}")),
    "rows": lambda folder: seal(folder, lambda content: content.update(rows=content["rows"] + 1)),
    "text": lambda folder: seal(folder, lambda content: content.update(entries={"a": "b"})),
    "short": lambda folder: os.truncate(frames_file(folder), 10),
    "long": lambda folder: frames_file(folder).write_bytes(frames_file(folder).read_bytes() + b"\0"),
    "lost": lambda folder: frames_file(folder).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_built_anew(tmp_path, wavs, damage):
    read(tmp_path / "s", wavs, Compute())
    DAMAGES[damage](tmp_path / "s")
    compute = Compute()
    check(read(tmp_path / "s", wavs, compute), wavs)
    assert compute.computed == ["0", "1", "2", "3"]
    assert len(files(tmp_path / "s")) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ZeroDivisionError])
def test_an_interrupted_build_leaves_nothing(tmp_path, wavs, error):
    class Interrupted(Compute):
        def rows(self, path: Path) -> Rows:
            if path.stem == "2":
                raise error
            return super().rows(path)

    with pytest.raises(error):
        read(tmp_path / "s", wavs, Interrupted())
    assert files(tmp_path / "s") <= {f"{NAME}.lock"}
    compute = Compute()
    check(read(tmp_path / "s", wavs, compute), wavs)
    assert compute.computed == ["0", "1", "2", "3"]


def test_what_a_killed_build_left_is_not_trusted_and_taken_away(tmp_path, wavs):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / f"{NAME}-{'0' * 32}").write_bytes(b"half")
    check(read(tmp_path / "s", wavs, Compute()), wavs)
    assert len(files(tmp_path / "s")) == 3


def test_processes_that_start_together_build_it_once(tmp_path, wavs):
    script = (
        "import sys, time\nfrom pathlib import Path\nsys.path[:0] = sys.argv[1:3]\nimport test_store as t\n"
        "wavs = {f'Sess01_script01_F{i:03d}': Path(sys.argv[3], 'wav', f'{i}.wav') for i in range(4)}\n"
        "compute = t.Compute()\nrows = compute.rows\n"
        "compute.rows = lambda path: time.sleep(0.5) or rows(path)\n"
        "t.check(t.read(Path(sys.argv[3], 's'), wavs, compute), wavs)\nprint(len(compute.computed))\n"
    )
    here = Path(__file__).parent
    call = [sys.executable, "-c", script, str(here), str(here.parent), str(tmp_path)]
    running = [subprocess.Popen(call, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    computed = sorted(int(process.communicate()[0]) for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert computed == [0, 4]


def test_a_wav_that_cannot_be_used_is_remembered_until_it_changes(tmp_path, wavs):
    bad = wavs["Sess01_script01_F001"]
    bad.write_bytes(b"xx")
    for computed in (["0", "1", "2", "3"], []):
        compute = Compute()
        frames = read(tmp_path / "s", wavs, compute)
        assert compute.computed == computed
        assert frames.faults == {1: f"{bad}: not readable as sound"}
        assert frames.spans[:, 1].tolist() == [1, 0, 3, 4, 0]
    bad.write_bytes(b"\1\1")
    check(read(tmp_path / "s", wavs, compute), wavs)
    assert compute.computed == ["1"]


def test_a_fault_of_the_moment_is_not_remembered(tmp_path, wavs):
    path = wavs["Sess01_script01_F001"]

    class Unmounted(Compute):
        def rows(self, path: Path) -> Rows:
            if path.stem != "1":
                return super().rows(path)
            path.rename(tmp_path / "away")
            return InputError(f"{path}: not readable (No such file or directory)")

    frames = read(tmp_path / "s", wavs, Unmounted())
    assert frames.faults == {1: f"{path}: not readable (No such file or directory)"}
    (tmp_path / "away").rename(path)
    compute = Compute()
    check(read(tmp_path / "s", wavs, compute), wavs)
    assert compute.computed == ["1"]


def test_a_link_to_nothing_is_a_fault(tmp_path, wavs):
    wavs["Sess01_script01_F000"] = tmp_path / "nothing.wav"
    frames = read(tmp_path / "s", wavs, Compute())
    assert frames.faults == {0: f"{tmp_path / 'nothing.wav'}: cannot be read; replace it or take it away"}


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path, wavs):
    (tmp_path / "s").write_text("a file")
    with pytest.raises(OSError, match="exists"):
        read(tmp_path / "s", wavs, Compute())


def test_an_empty_corpus_has_no_frames(tmp_path):
    frames = read(tmp_path / "s", {}, Compute())
    assert frames.values.shape == (1, WIDTH)
    np.testing.assert_array_equal(frames.spans, [[0, 0, 0]])
    assert in_memory(PADDING, iter([])).spans.shape == (0, 3)
