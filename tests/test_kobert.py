import os
import pickle

import numpy as np
import pytest
import torch

import kobert
from kobert import KoBERTTokenizer, embed_sentences, load_embeddings, load_text_model, save_embeddings
from utils import InputError

TEXTS = ["안녕?", "", "어제 밤을 새웠는데도 끝이 안 나네요. 정말 힘들어요.", "네.", "안녕?", "QR코드 6살"]


@pytest.fixture(scope="module")
def skt_tokenizer() -> KoBERTTokenizer:
    from conftest import REFERENCE

    return KoBERTTokenizer.from_pretrained(REFERENCE / "tokenizer")


@pytest.fixture(scope="module")
def text_model(sample):
    return load_text_model(str(sample / "kobert"), 768)


def test_ids_are_skts(skt_tokenizer, reference):
    for sentence in reference("tokenizer/expected.json")["single"]:
        assert skt_tokenizer.encode(sentence["text"]) == sentence["ids"], sentence["text"]


def test_a_batch_is_padded_and_masked_as_skts(skt_tokenizer, reference):
    expected = reference("tokenizer/expected.json")["batch"]
    batch = skt_tokenizer(expected["texts"])
    assert batch["input_ids"].tolist() == expected["input_ids"]
    assert batch["attention_mask"].tolist() == expected["attention_mask"]


def test_a_single_text_is_a_batch_of_one(skt_tokenizer):
    batch = skt_tokenizer("안녕하세요")
    assert batch["input_ids"].tolist() == [skt_tokenizer.encode("안녕하세요")]


def test_a_long_sentence_keeps_cls_its_first_pieces_and_sep(skt_tokenizer):
    whole = skt_tokenizer.pieces.encode("네 " * 1000)
    ids = skt_tokenizer.encode("네 " * 1000)
    assert ids == [2, *whole[:510], 3]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_embedding_is_the_masked_mean_of_one_sentence_at_a_time(text_model, batch_size):
    tokenizer, model = text_model
    expected = []
    with torch.inference_mode():
        for text in TEXTS:
            hidden = model(input_ids=torch.tensor([tokenizer.encode(text)])).last_hidden_state
            expected.append(hidden[0].mean(dim=0).numpy())
    embedding = embed_sentences(TEXTS, tokenizer, model, batch_size, progress=False)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-5)
    assert np.abs(embedding[0] - embedding[2]).max() > 0.1  # sentences differ, so their order is tested


def test_equal_sentences_are_embedded_once_and_batches_are_of_like_length(text_model):
    tokenizer, model = text_model
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    embed_sentences(TEXTS * 3, tokenizer, model, 2, progress=False)
    hook.remove()
    lengths = sorted(len(tokenizer.encode(text)) for text in set(TEXTS))
    assert [tuple(shape) for shape in shapes] == [(2, lengths[1]), (2, lengths[3]), (1, lengths[4])]


def test_dimension_that_disagrees_names_both(sample):
    with pytest.raises(InputError, match=r"768 values, --text_dim is 512"):
        load_text_model(str(sample / "kobert"), 512)


def test_model_that_cannot_be_had_is_one_line_that_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, message in (("skt/kobert-base-v1", "hf download"), (str(tmp_path / "not there"), "no such folder")):
        with pytest.raises(InputError, match=message) as error:
            load_text_model(name, 768)
        assert "\n" not in str(error.value)


def test_folder_without_vocabulary_is_named(tmp_path):
    with pytest.raises(InputError, match=r"spiece\.model: not found"):
        load_text_model(str(tmp_path), 768)


def test_vocabulary_that_is_none_is_refused(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="SentencePiece"):
        load_text_model(str(tmp_path), 768)


# The embedding file


def vectors(dim: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"Sess01_script01_F00{i}.txt": rng.normal(size=dim).astype(np.float32) for i in range(1, 4)}


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for key, vector in expected.items():
        np.testing.assert_array_equal(found[key], vector)
        assert found[key].dtype == np.float32


def test_embeddings_are_written_in_the_published_format(tmp_path):
    with (tmp_path / "e.npy").open("wb") as file:
        save_embeddings(file, vectors())
    assert_same(np.load(tmp_path / "e.npy", allow_pickle=True).item(), vectors())


def test_embeddings_are_read_as_the_published_program_wrote_them(tmp_path):
    np.save(tmp_path / "e.npy", vectors())
    assert_same(load_embeddings(tmp_path / "e.npy", 4), vectors())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_embeddings_of_older_numpy_are_read(tmp_path, protocol):
    """NumPy 1 calls its constructors numpy.core..., and pickles by other protocols."""
    np.save(tmp_path / "e.npy", {})
    header = (tmp_path / "e.npy").read_bytes()[:128]
    content = pickle.dumps(np.array(vectors(), dtype=object), protocol=protocol)
    if protocol < 4:  # names are stored without their length
        content = content.replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "e.npy").write_bytes(header + content)
    assert_same(load_embeddings(tmp_path / "e.npy", 4), vectors())


class Attack:
    """Calls `function(*arguments)` where it is unpickled without care."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [open, os.system, eval, getattr, np.frombuffer, np.load], ids=lambda f: f.__name__)
def test_file_that_names_another_callable_is_refused_and_nothing_is_run(tmp_path, function):
    marker = tmp_path / "marker"
    arguments = {open: (str(marker), "w"), os.system: (f"touch {marker}",), eval: (f"open({str(marker)!r}, 'w')",)}
    np.save(tmp_path / "e.npy", vectors() | {"x.txt": Attack(function, *arguments.get(function, ("x",)))})
    with pytest.raises(InputError, match=r"refused, it names .*none of numpy's array constructors"):
        load_embeddings(tmp_path / "e.npy", 4)
    assert not marker.exists()


def test_admitted_constructors_cannot_be_made_to_read_foreign_memory(tmp_path):
    """numpy's own ndarray((), object, bytes) is an array of pointers of the file's choice: touching it is a crash."""
    np.save(tmp_path / "e.npy", vectors() | {"x.txt": Attack(np.ndarray, (), np.dtype("O"), b"A" * 8)})
    with pytest.raises(InputError, match=r"x\.txt holds"):
        load_embeddings(tmp_path / "e.npy", 4)


def test_any_damaged_byte_ends_in_vectors_or_in_an_input_error(tmp_path):
    path = tmp_path / "e.npy"
    np.save(path, vectors())
    good, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        bad = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            bad[place] = rng.integers(256)
        path.write_bytes(bytes(bad))
        try:
            assert all(vector.shape == (4,) for vector in load_embeddings(path, 4).values())
        except InputError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "content",
    [
        {"a.txt": np.zeros(3, np.float32)},
        {"a.txt": np.full(4, np.nan, np.float32)},
        {"a.txt": "text"},
        [1, 2, 3],
    ],
    ids=["length", "nan", "text", "list"],
)
def test_other_contents_are_refused(tmp_path, content):
    np.save(tmp_path / "e.npy", np.array(content, dtype=object))
    with pytest.raises(InputError, match=r"e\.npy: "):
        load_embeddings(tmp_path / "e.npy", 4)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"text", "cut", "float"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / "e.npy"
    np.save(path, np.zeros(4) if damage == "float" else vectors())
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"e\.npy: "):
        load_embeddings(path, 4)


def test_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"preprocessing\.py"):
        load_embeddings(tmp_path / "e.npy", 4)


def test_importing_kobert_imports_nothing_heavy():
    import subprocess
    import sys
    from pathlib import Path

    code = "import sys, kobert; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(kobert.__file__).parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
