import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import REFERENCE
from test_text import TEXTS, Attack, make_encoder

from features.embeddings import SAVE_SECONDS, EmbeddingCache, digest_of, load_embeddings, save_embeddings
from features.text import KoBERTTokenizer, embed_sentences, load_text_model
from utils import InputError


@pytest.fixture(scope="module")
def text_model(sample):
    return load_text_model(str(sample / "kobert"), 768)


# The cache


@contextmanager
def counted(model: torch.nn.Module, stop_after: int | None = None) -> Iterator[list[int]]:
    """The number of sentences of each forward pass; the pass after `stop_after` is interrupted."""
    passes: list[int] = []

    def count(_: torch.nn.Module, __: tuple, inputs: dict) -> None:
        if len(passes) == stop_after:
            raise KeyboardInterrupt
        passes.append(len(inputs["input_ids"]))

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    yield passes
    hook.remove()


def embed(texts: list[str], path: Path, text_model: tuple) -> np.ndarray:
    tokenizer, model = text_model
    cache = EmbeddingCache(path, tokenizer, model)
    return embed_sentences(texts, tokenizer, model, 2, quiet=True, cache=cache)


def test_an_encoder_without_a_pooling_layer_finds_its_embeddings_again(tmp_path):
    folder = make_encoder(tmp_path / "encoder", "bert")
    _, model = load_text_model(folder)
    transformers.BertModel(model.config, add_pooling_layer=False).save_pretrained(folder)
    embed(TEXTS, tmp_path / "cache.npz", load_text_model(folder))
    torch.manual_seed(1)  # a pooling layer that the file lacks is drawn
    assert EmbeddingCache(tmp_path / "cache.npz", *load_text_model(folder)).embeddings


def test_an_interrupted_first_batch_forgets_nothing(text_model, tmp_path):
    path = tmp_path / "cache.npz"
    embed(TEXTS, path, text_model)
    with counted(text_model[1], stop_after=0), pytest.raises(KeyboardInterrupt):
        embed(["새 문장"], path, text_model)
    assert len(EmbeddingCache(path, *text_model).embeddings) == len(set(TEXTS))


def test_an_interrupted_embedding_goes_on_where_it_stopped(text_model, tmp_path):
    path, model = tmp_path / "cache.npz", text_model[1]
    expected = embed_sentences(TEXTS, *text_model, 2, quiet=True)
    with counted(model, stop_after=2) as first, pytest.raises(KeyboardInterrupt):
        embed(TEXTS, path, text_model)
    with counted(model) as second:
        embedding = embed(TEXTS, path, text_model)
    assert (first, second) == ([2, 2], [1])
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-5)


def test_a_process_that_is_killed_loses_half_a_minute_at_most(text_model, tmp_path):
    tokenizer, model = text_model
    cache = EmbeddingCache(tmp_path / "cache.npz", tokenizer, model)
    cache.saved_at -= SAVE_SECONDS + 1  # as if it were half a minute ago
    cache.add({digest_of("안녕?"): np.ones(768, dtype=np.float32)})  # and `save` is never called
    assert len(EmbeddingCache(tmp_path / "cache.npz", tokenizer, model).embeddings) == 1


def test_only_transcripts_that_changed_are_embedded_anew(text_model, tmp_path):
    path = tmp_path / "cache.npz"
    whole = embed(TEXTS, path, text_model)
    with counted(text_model[1]) as passes:
        np.testing.assert_array_equal(embed(TEXTS, path, text_model), whole)
        changed = embed([*TEXTS[:-1], "QR코드 7살"], path, text_model)
    assert passes == [1]
    np.testing.assert_array_equal(changed[:-1], whole[:-1])
    np.testing.assert_allclose(changed[-1], embed_sentences(["QR코드 7살"], *text_model)[0], rtol=0, atol=1e-5)
    assert len(EmbeddingCache(path, *text_model).embeddings) == len(set(TEXTS))  # the old sentence is forgotten


@pytest.mark.parametrize("what", ["weights", "tokenizer"])
def test_another_text_model_finds_nothing_in_the_cache(text_model, sample, tmp_path, what):
    path = tmp_path / "cache.npz"
    embed(TEXTS, path, text_model)
    tokenizer, model = load_text_model(str(sample / "kobert"))
    if what == "weights":
        with torch.no_grad():
            model.encoder.layer[0].output.dense.bias[0] += 1e-3
    else:
        tokenizer = KoBERTTokenizer(REFERENCE / "tokenizer" / "spiece.model")
    other = EmbeddingCache(path, tokenizer, model)
    assert (other.embeddings, other.fault) == ({}, None)
    same = EmbeddingCache(path, *load_text_model(str(sample / "kobert")))
    assert len(same.embeddings) == len(set(TEXTS))


def test_a_damaged_cache_is_an_empty_one_and_said_so(text_model, tmp_path):
    path = tmp_path / "cache.npz"
    whole = embed(TEXTS, path, text_model)
    good = path.read_bytes()
    np.savez(tmp_path / "pickled.npz", text_model=np.array([Attack(os.system, f"touch {tmp_path / 'marker'}")]))
    shapes = dict(np.load(path)) | {"embedding": np.zeros((5, 7), np.float32)}
    np.savez(tmp_path / "shapes.npz", **shapes)
    values = dict(np.load(path))
    values["embedding"][2, 3] = np.nan
    np.savez(tmp_path / "values.npz", **values)
    np.save(tmp_path / "array.npz", np.zeros(3))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    others = [(tmp_path / f"{name}.npz").read_bytes() for name in ("pickled", "shapes", "values", "array")]
    for content in (b"", b"PK", good[:-100], good[:5000], *others):
        path.write_bytes(content)
        assert EmbeddingCache(path, *text_model).fault
        np.testing.assert_allclose(embed(TEXTS, path, text_model), whole, rtol=0, atol=1e-6)
        assert path.read_bytes() == good
    assert not (tmp_path / "marker").exists()


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
