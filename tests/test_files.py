import shutil

from raw_corpus import faults, run, touch

from corpora.files import find_files


def test_files_are_found_in_any_case_and_the_first_of_several(tmp_path):
    later, first = touch(tmp_path / "b/x.wav"), touch(tmp_path / "a/deep/x.WAV")
    dotted = touch(tmp_path / "a/Sess01.v2.wav")
    assert find_files(tmp_path, ".wav") == {"x": first, "Sess01.v2": dotted}
    first.unlink()
    assert find_files(tmp_path, ".wav")["x"] == later


def test_second_files_of_a_name_are_listed(tmp_path):
    first, *others = [touch(tmp_path / name) for name in ("a/x.WAV", "b/x.wav", "x.wav")]
    repeated = []
    assert find_files(tmp_path, ".wav", repeated) in ({"x": first}, {"x": others[1]})
    assert len(repeated) == 2


def test_linked_folders_are_entered_and_circles_are_not_walked_for_ever(tmp_path):
    wav = touch(tmp_path / "elsewhere/Session02/a.wav")
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav/Session02").symlink_to(tmp_path / "elsewhere/Session02")
    (tmp_path / "elsewhere/Session02/back").symlink_to(tmp_path / "wav")
    repeated = []
    found = find_files(tmp_path / "wav", ".wav", repeated)
    assert found.keys() == {"a"}
    assert found["a"].samefile(wav)
    assert repeated == []


def test_second_files_of_one_id(corpus, preprocessed, capsys):
    folder = corpus / "wav" / "Session06_copy"
    shutil.copytree(corpus / "wav" / "Session06", folder)
    found = faults(corpus, preprocessed, capsys)
    assert {row.what for row in found} == {"second wav of one id", "second transcript of one id"}
    assert all(row.file.startswith("wav/Session06_copy/") for row in found)


def test_upper_case_endings_are_read(corpus, preprocessed):
    for path in [*(corpus / "wav").rglob("*.wav"), *(corpus / "wav").rglob("*.txt")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    assert run(corpus) == 0
    assert (corpus / "problems.csv").read_text().replace(".TXT", ".txt") == (preprocessed / "problems.csv").read_text()
    assert (corpus / "embedding_768.npy").read_bytes() == (preprocessed / "embedding_768.npy").read_bytes()
