import json
import os
import resource
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from features.store import FeatureStore, Frames, Rows, frames_in_memory
from utils import InputError

NAME, WIDTH = "log_mel-16000-float16", 3
FILE = f"{NAME}.safetensors"
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


def open_store(folder: Path, wavs: dict[str, Path], constants: dict | None = None) -> FeatureStore:
    return FeatureStore(folder, NAME, constants or {"sr": 16000}, wavs, PADDING)


def read(folder: Path, wavs: dict[str, Path], compute: Compute, constants: dict | None = None) -> Frames:
    store = open_store(folder, wavs, constants)
    if store.missing():
        with store.build() as build:
            rows_of_each = compute([wavs[segment] for segment in build.missing])
            for segment, rows in zip(build.missing, rows_of_each, strict=True):
                build.add(segment, rows)
    return store.frames([*wavs, "Sess01_script01_F999"])


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
    with safetensors.safe_open(tmp_path / "s" / FILE, framework="pt") as file:
        assert sorted(file.keys()) == ["frames", "index"]
        assert file.get_slice("frames").get_shape() == [1 + 1 + 2 + 3 + 4 + 2, WIDTH]  # padding is implied


def test_frames_in_memory_are_the_same(wavs):
    compute = Compute()
    check(frames_in_memory(PADDING, iter([*map(compute.rows, wavs.values()), None])), wavs)


def test_only_a_wav_that_changed_is_computed_anew(tmp_path, wavs):
    before = read(tmp_path / "s", wavs, Compute())
    old = before.values.clone()
    changed, compute = list(wavs.values())[1], Compute()
    changed.write_bytes(b"\7\7\7")
    check(read(tmp_path / "s", wavs, compute), wavs)
    assert compute.computed == ["1"]
    assert torch.equal(before.values, old)  # who has the old frames mapped keeps them
    assert files(tmp_path / "s") == {FILE, f"{NAME}.lock"}


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
    gone = wavs.pop("Sess01_script01_F001")
    assert gone.exists()
    store = open_store(tmp_path / "s", wavs)
    assert store.missing() == []
    frames = store.frames(["Sess01_script01_F001", "Sess01_script01_F002"])
    assert frames.spans[:, 1].tolist() == [0, 3]


def test_other_constants_give_other_frames(tmp_path, wavs):
    compute = Compute()
    for constants in ({"sr": 16000, "n_mels": 229}, {"sr": 16000, "n_mels": 128}):
        check(read(tmp_path / "s", wavs, compute, constants), wavs)
    assert compute.computed == ["0", "1", "2", "3"] * 2
    assert files(tmp_path / "s") == {FILE, f"{NAME}.lock"}


class Content:
    """The content of a store's file, read and written by the library."""

    def __init__(self, path: Path) -> None:
        with safetensors.safe_open(path, framework="pt") as file:
            self.metadata, self.frames = file.metadata(), file.get_tensor("frames").clone()
            self.index = json.loads(bytes(file.get_tensor("index")))

    @property
    def first_span(self) -> list[int]:
        return next(iter(self.index.values()))[1]

    def write(self, path: Path) -> None:
        """Write it with the checksum of what it now holds."""
        index = json.dumps(self.index).encode()
        checksum = zlib.crc32(index, zlib.crc32(self.frames.view(torch.uint8).numpy()))
        tensors = {"frames": self.frames, "index": torch.frombuffer(bytearray(index), dtype=torch.uint8)}
        safetensors.torch.save_file(tensors, path, self.metadata | {"checksum": f"{checksum:08x}"})


def change(path: Path, edit: Callable[[Content], object]) -> None:
    content = Content(path)
    edit(content)
    content.write(path)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


OLD_KEY = json.dumps({"version": 2, "sr": 16000}, sort_keys=True)
DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: os.truncate(path, 200),
    "flipped": lambda path: flip(path, path.stat().st_size // 2),
    "flipped length": lambda path: flip(path, 0),
    "flipped frame": lambda path: flip(path, path.read_bytes().index(b'{"Sess') - 1),
    "flipped index": lambda path: flip(path, -1),
    "flipped padding": lambda path: flip(path, path.read_bytes().index(b'{"Sess') - 13 * WIDTH * 2),
    "another id": lambda path: replace(path, b"script01_F002", b"script01_F009"),
    "another checksum": lambda path: flip(path, path.read_bytes().index(b'"checksum": "') + 14),
    "foreign": lambda path: path.write_text('{"a": 1}'),
    "of another program": lambda path: safetensors.torch.save_file({"a": torch.ones(3)}, path, {"a": "b"}),
    "without metadata": lambda path: safetensors.torch.save_file({"frames": torch.ones(3)}, path),
    "pickle": lambda path: path.write_bytes(f"cbuiltins\nopen\n(V{path.parent / 'marker'}\nVw\ntR.".encode()),
    "list": lambda path: change(path, lambda c: setattr(c, "index", [])),
    "text": lambda path: change(path, lambda c: setattr(c, "index", {"a": "b"})),
    "entries": lambda path: change(path, lambda c: setattr(c, "index", {"a": [[1, 2, 3], [0, 0, 0], None]})),
    "version": lambda path: change(path, lambda c: c.metadata.update(key=OLD_KEY)),
    "bounds": lambda path: change(path, lambda c: c.first_span.__setitem__(1, 99)),
    "overflow": lambda path: change(path, lambda c: c.first_span.__setitem__(slice(3), [2**62] * 3)),
    "negative": lambda path: change(path, lambda c: c.first_span.__setitem__(0, -1)),
    "span": lambda path: change(path, lambda c: c.first_span.pop()),
    "rows": lambda path: replace(path, f"[13, {WIDTH}]".encode(), f"[14, {WIDTH}]".encode()),
    "fewer rows": lambda path: change(path, lambda c: setattr(c, "frames", c.frames[:-1].clone())),
    "width": lambda path: change(path, lambda c: setattr(c, "frames", c.frames[:, :-1].clone())),
    "flat": lambda path: change(path, lambda c: setattr(c, "frames", c.frames.flatten())),
    "type": lambda path: change(path, lambda c: setattr(c, "frames", c.frames.view(torch.int16))),
    "short": lambda path: os.truncate(path, path.stat().st_size - 10),
    "long": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "lost": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_built_anew(tmp_path, wavs, damage):
    read(tmp_path / "s", wavs, Compute())
    DAMAGES[damage](tmp_path / "s" / FILE)
    compute = Compute()
    check(read(tmp_path / "s", wavs, compute), wavs)
    assert compute.computed == ["0", "1", "2", "3"]
    assert files(tmp_path / "s") == {FILE, f"{NAME}.lock"}


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


def test_a_store_of_the_librarys_hand_is_read(tmp_path, wavs):
    read(tmp_path / "s", wavs, Compute())
    content, compute = Content(tmp_path / "s" / FILE), Compute()
    content.write(tmp_path / "s" / FILE)
    check(read(tmp_path / "s", wavs, compute), wavs)
    assert compute.computed == []


def test_what_earlier_versions_left_is_removed(tmp_path, wavs):
    (tmp_path / "s").mkdir()
    old = [f"{NAME}.index", f"{NAME}-{'0' * 32}", f"{NAME}-{'1' * 32}", f".{NAME}.index.x1y2z3_4"]
    for name in [*old, "log_mel-8000-float32.index", f"log_mel-8000-float32-{'2' * 32}", f".{FILE}.abcd1234"]:
        (tmp_path / "s" / name).write_bytes(b"half")
    for name in ("log_mel-8000-float32.safetensors", "notes-of-the-user"):
        (tmp_path / "s" / name).write_bytes(b"of others")
    check(read(tmp_path / "s", wavs, Compute()), wavs)
    others = {"log_mel-8000-float32.safetensors", "notes-of-the-user"}
    assert files(tmp_path / "s") == {FILE, f"{NAME}.lock", *others}


SCRIPT = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import test_store
folder = Path(sys.argv[3])
wavs = {f"Sess01_script01_F{i:03d}": folder / "wav" / f"{i}.wav" for i in range(4)}
compute = test_store.Compute()
rows = compute.rows
compute.rows = lambda path: print("computing", flush=True) or time.sleep(0.5) or rows(path)
test_store.check(test_store.read(folder / "s", wavs, compute), wavs)
print(len(compute.computed))
"""


def start_process(folder: Path) -> subprocess.Popen:
    """A process that reads the store, with half a second per wav to compute."""
    here = Path(__file__).parent
    call = [sys.executable, "-c", SCRIPT, str(here), str(here.parent), str(folder)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_build_left_is_not_read_and_removed(tmp_path, wavs):
    with start_process(tmp_path) as process:
        assert process.stdout.readline() == "computing\n"
        assert process.stdout.readline() == "computing\n"
        process.kill()
    assert FILE not in files(tmp_path / "s")
    compute = Compute()
    check(read(tmp_path / "s", wavs, compute), wavs)
    assert compute.computed == ["0", "1", "2", "3"]
    assert files(tmp_path / "s") == {FILE, f"{NAME}.lock"}


def test_processes_that_start_together_build_it_once(tmp_path, wavs):
    running = [start_process(tmp_path) for _ in range(2)]
    computed = sorted(int(process.communicate()[0].split()[-1]) for process in running)
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


def test_a_full_disk_is_an_os_error_and_leaves_the_store_as_it_was(tmp_path, wavs):
    read(tmp_path / "s", wavs, Compute())
    before = (tmp_path / "s" / FILE).read_bytes()
    wavs["Sess01_script01_F001"].write_bytes(b"\7" * 10_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # no file may be larger
    try:
        with pytest.raises(OSError, match="File too large"):
            read(tmp_path / "s", wavs, Compute())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path / "s") == {FILE, f"{NAME}.lock"}
    assert (tmp_path / "s" / FILE).read_bytes() == before
    check(read(tmp_path / "s", wavs, Compute()), wavs)


def test_an_empty_corpus_has_no_frames(tmp_path):
    frames = read(tmp_path / "s", {}, Compute())
    assert frames.values.shape == (1, WIDTH)
    np.testing.assert_array_equal(frames.spans, [[0, 0, 0]])
    assert frames_in_memory(PADDING, iter([])).spans.shape == (0, 3)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's memory")
def test_an_open_store_takes_no_memory_of_its_own(tmp_path):
    wavs = {"Sess01_script01_F000": tmp_path / "a.wav"}
    wavs["Sess01_script01_F000"].write_bytes(b"sound")
    store = open_store(tmp_path / "s", wavs)
    with store.build() as build:
        (segment,) = build.missing
        build.add(segment, (torch.ones(10_000_000, WIDTH, dtype=torch.float16), PADDING[:0]))

    def private_memory() -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    before = private_memory()
    values = open_store(tmp_path / "s", wavs).frames(["Sess01_script01_F000"]).values
    assert values.nbytes > 60_000_000
    assert private_memory() - before < values.nbytes / 10
