"""Text encoder against SKT's ids and one sentence at a time, and the published embedding file with its safe reader."""

import os
import pickle
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from conftest import ROOT
from safetensors.torch import load_file, save_file

import preprocessing
from features.embeddings import load_embeddings, save_embeddings
from features.text import Tokenizer, kobert_tokenizer, load_text_encoder
from utils import InputError, read_json, write_json

TEXTS = ["안녕?", "", "어제 밤을 새웠는데도 끝이 안 나네요. 정말 힘들어요.", "네.", "안녕?", "QR코드 6살"]

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


class Attack:
    """Calls `function(*arguments)` where it is unpickled without care."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.fixture(scope="module")
def skt() -> Tokenizer:
    return kobert_tokenizer(ROOT / "tests" / "reference" / "tokenizer" / "spiece.model")


def test_ids_are_skts(skt, reference):
    expected = reference("tokenizer/expected.json")
    for sentence in expected["single"]:
        assert skt.encode(sentence["text"]) == sentence["ids"], sentence["text"]
    for text, ids, mask in zip(*(expected["batch"][k] for k in ("texts", "input_ids", "attention_mask")), strict=True):
        assert skt.encode(text) + [skt.pad_id] * mask.count(0) == ids


def test_long_decomposed_and_marked_sentences(skt):
    cls, *pieces, sep = skt.encode("네 " * 1000)
    assert (cls, len(pieces), sep) == (2, 510, 3)
    text = "네. 어제 밤을 새웠는데도 끝이 안 나네요."
    assert unicodedata.normalize("NFD", text) != text
    assert skt.encode(unicodedata.normalize("NFD", text)) == skt.encode(text)
    assert not {1, 2, 3, 4} & set(skt.encode("[SEP] 네 [CLS]")[1:-1])  # marks that a sentence spells out are text


# Encoders: KoBERT, and others in the layout of klue/bert-base and klue/roberta-base with a tokenizer of their own


def make_encoder(folder: Path, kind: str) -> str:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"안녕어제밤을새웠는데도끝이나네요정말힘들?.,QR코드6살"]
    vocabulary = [*vocabulary, *(f"##{piece}" for piece in vocabulary[5:])]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(vocabulary))}
    transformers.BertTokenizer(vocab=vocabulary, do_lower_case=False).save_pretrained(folder)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"vocab_size": len(vocabulary) + 3, "pad_token_id": 0}
    torch.manual_seed(0)
    if kind == "bert":
        model = transformers.BertModel(transformers.BertConfig(**sizes, max_position_embeddings=20))
    else:
        config = transformers.RobertaConfig(**sizes | {"pad_token_id": 1}, max_position_embeddings=22)
        model = transformers.RobertaModel(config)
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("kind", "dim", "batch_size"), [("kobert", 768, 1), ("bert", 24, 2), ("roberta", 24, 64)])
def test_an_embedding_is_the_mean_over_the_tokens_of_one_sentence(sample, tmp_path, kind, dim, batch_size):
    folder = sample / "kobert" if kind == "kobert" else make_encoder(tmp_path / kind, kind)
    encoder = load_text_encoder(str(folder))
    texts, expected, shapes = [*TEXTS, "안녕 " * 50], [], []
    with torch.inference_mode():
        for text in texts:
            ids = encoder.tokenizer.encode(text)
            if kind != "kobert":
                own = transformers.AutoTokenizer.from_pretrained(folder)
                assert ids == own(text, truncation=True, max_length=20)["input_ids"]
            expected.append(encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0).numpy())
    encoder.model.register_forward_pre_hook(
        lambda _, args, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    embedding = encoder.embed(texts, batch_size)
    assert (embedding.shape, embedding.dtype, encoder.shape) == ((len(texts), dim), np.float32, (dim,))
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-5)
    assert np.abs(embedding[0] - embedding[2]).max() > 0.1  # sentences differ, so their order is tested
    assert sum(rows for rows, _ in shapes) == len(set(texts))  # equal sentences once, in batches of like length
    assert [length for _, length in shapes] == sorted(length for _, length in shapes)


def test_a_fingerprint_follows_weights_and_tokenizer_but_no_unused_pooling_layer(sample, tmp_path):
    folder = make_encoder(tmp_path / "bert", "bert")
    first = load_text_encoder(folder).description
    unknown = dict.fromkeys(("revision", "random", "learnt_sessions"))
    assert first == {"name": folder, "fingerprint": first["fingerprint"]} | unknown
    model = transformers.BertModel.from_pretrained(folder)
    transformers.BertModel(model.config, add_pooling_layer=False).save_pretrained(folder)  # other weights
    # Each time with other weights of the pooling layer, which the file lacks
    prints = {load_text_encoder(folder).description["fingerprint"] for _ in range(2)}
    assert len(prints) == 1
    assert prints != {first["fingerprint"]}
    vocabulary = transformers.AutoTokenizer.from_pretrained(folder).get_vocab()
    transformers.BertTokenizer(vocab=vocabulary, do_lower_case=True).save_pretrained(folder)
    assert load_text_encoder(folder).description["fingerprint"] not in prints
    assert load_text_encoder(str(sample / "kobert")).description["random"] is True


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no vocabulary": lambda folder: (folder / "spiece.model").unlink(),
    "other vocabulary": lambda folder: (folder / "spiece.model").write_bytes(b"nothing of the kind"),
    "no weights": lambda folder: (folder / "pytorch_model.bin").unlink(),
    "cut weights": lambda folder: os.truncate(folder / "pytorch_model.bin", 1000),
    "attack": lambda folder: torch.save({"x": Attack(open, str(folder / "marker"), "w")}, folder / "pytorch_model.bin"),
    "other config": lambda folder: (folder / "config.json").write_text('{"model_type": "nothing of the kind"}'),
    "not JSON": lambda folder: (folder / "config.json").write_text("{"),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
    "LFS pointer of the weights": lambda folder: (folder / "pytorch_model.bin").write_bytes(POINTER),
    "LFS pointer of the vocabulary": lambda folder: (folder / "spiece.model").write_bytes(POINTER),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_holds_no_text_encoder_is_one_line_that_names_it(sample, tmp_path, damage):
    folder = shutil.copytree(sample / "kobert", tmp_path / "encoder")
    DAMAGES[damage](folder)
    with pytest.raises(InputError, match=str(folder)) as error:
        load_text_encoder(str(folder))
    assert "\n" not in str(error.value)
    assert ("LFS" in str(error.value)) == ("LFS" in damage)
    assert ("needs spiece.model" in str(error.value)) == ("vocabulary" in damage and "LFS" not in damage)
    assert not (folder / "marker").exists()


def word_pieces(folder: Path) -> None:
    """KoBERT's pieces as BERT's vocabulary, which finds few of them: a word begins with a mark that no text has."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    (folder / "vocab.txt").write_text("\n".join(map(pieces.id_to_piece, range(len(pieces)))), "utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    (folder / "spiece.model").unlink()


def test_kobert_without_its_own_vocabulary_file_is_refused_with_its_name(sample, tmp_path):
    folder = shutil.copytree(sample / "kobert", tmp_path / "encoder")
    word_pieces(folder)
    for settings in ({"do_lower_case": False}, {"tokenizer_class": "KoBertTokenizer"}):
        write_json(folder / "tokenizer_config.json", settings)
        with pytest.raises(InputError, match=r"needs spiece\.model"):
            load_text_encoder(str(folder))


WEIGHTS: dict[str, tuple[Callable[[dict], dict], str]] = {
    "of DDP": (lambda state: {f"module.{n}": t for n, t in state.items()}, "embeddings.LayerNorm.bias; .*module"),
    "lacking": (lambda state: {n: t for n, t in state.items() if ".1.output.dense" not in n}, "1.output.dense.bias"),
    "no numbers": (lambda state: {n: t * np.nan if ".0.output" in n else t for n, t in state.items()}, "0.output"),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_weights_that_are_lacking_or_no_numbers_are_refused_by_the_first_name(tmp_path, fault):
    folder, (change, named) = make_encoder(tmp_path / "encoder", "bert"), WEIGHTS[fault]
    save_file(change(load_file(f"{folder}/model.safetensors")), f"{folder}/model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=named):
        load_text_encoder(folder)


def test_a_configuration_with_other_layers_than_the_file_is_refused_or_warned_of(tmp_path, monkeypatch):
    folder = make_encoder(tmp_path / "encoder", "roberta")
    config = read_json(tmp_path / "encoder" / "config.json")
    write_json(tmp_path / "encoder" / "config.json", config | {"num_hidden_layers": 3})
    with pytest.raises(InputError, match=r"encoder\.layer\.2"):
        load_text_encoder(folder)
    write_json(tmp_path / "encoder" / "config.json", config | {"num_hidden_layers": 1})
    monkeypatch.setenv("HOME", str(tmp_path))  # no shell expands the ~ of --text_model=~/encoder
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with pytest.warns(UserWarning, match=r"encoder\.layer\.1"):
        assert load_text_encoder("~/encoder").description["name"] == folder


def test_unknown_pieces_are_counted_over_all_sentences_warned_of_and_refused(tmp_path, capsys, recwarn):
    encoder, known = load_text_encoder(make_encoder(tmp_path / "bert", "bert")), ["안 밤 끝 이"] * 25
    encoder.embed([*known, *["봄"] * 2], progress=True)  # 2.0% of 102
    assert "2 of 102" in capsys.readouterr().out
    assert not recwarn.list
    with pytest.warns(UserWarning, match="3 of 103.*봄"):
        encoder.embed([*known, *["봄"] * 3])
    with pytest.warns(UserWarning, match="3 of 4"):  # too few to refuse
        encoder.embed(["봄 밤", "꽃", "새벽"])
    with pytest.raises(InputError, match=r"25 of 125.*봄"):
        encoder.embed([*known, *["봄"] * 25])


def test_preprocessing_with_the_tokenizer_of_another_language_writes_nothing(corpus, tmp_path, capsys):
    before = sorted(corpus.rglob("*"))
    argv = ["--data_path", str(corpus), "--gpu_id", "cpu", "--text_model", make_encoder(tmp_path / "bert", "bert")]
    assert preprocessing.main(argv) == 2
    assert argv[-1] in capsys.readouterr().err.splitlines()[-1]
    assert sorted(corpus.rglob("*")) == before


@pytest.mark.parametrize("name", ["skt/kobert-base-v1", "/not/there", "exp/kobert", "encoders/kobret", "../kobert"])
def test_an_encoder_that_cannot_be_had_is_one_line_and_a_path_is_not_looked_for_on_the_hub(
    monkeypatch, tmp_path, name, capsys
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoders").mkdir()
    with pytest.raises(InputError, match=name) as error:
        load_text_encoder(name)
    assert "\n" not in str(error.value)
    assert (name in capsys.readouterr().err) == name.startswith("skt")


# The embedding file

VECTORS = {f"Sess01_script01_F00{i}.txt": np.random.default_rng(i).normal(size=4).astype(np.float32) for i in range(3)}


def assert_same(found: dict) -> None:
    assert list(found) == list(VECTORS)
    for key, vector in VECTORS.items():
        np.testing.assert_array_equal(found[key], vector)
        assert found[key].dtype == np.float32


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_embeddings_are_written_in_the_published_format_and_read_of_any_numpy(tmp_path, protocol):
    """NumPy 1 calls its constructors numpy.core..., and pickles by other protocols."""
    path = tmp_path / "e.npy"
    save_embeddings(path, VECTORS)
    assert_same(np.load(path, allow_pickle=True).item())
    assert_same(load_embeddings(path, 4))
    content = pickle.dumps(np.array(VECTORS, dtype=object), protocol=protocol)
    if protocol < 4:  # names are stored without their length
        content = content.replace(b"numpy._core.", b"numpy.core.")
    path.write_bytes(path.read_bytes()[:128] + content)
    assert_same(load_embeddings(path, 4))


REFUSED = {
    "length": {"a.txt": np.zeros(3, np.float32)},
    "beyond a model": {"a.txt": np.full(4, 1e30, np.float32)},
    "nan": {"a.txt": np.full(4, np.nan, np.float32)},
    "text": {"a.txt": "text"},
    "no names": {1: np.zeros(4, np.float32)},
    "list": [1, 2, 3],
    "floats": np.zeros(4),
    "open": {"a.txt": Attack(open, "marker", "w")},
    "system": {"a.txt": Attack(os.system, "touch marker")},
    "frombuffer": {"a.txt": Attack(np.frombuffer, b"x")},
    # An array of pointers of the file's choice: touching it is a crash
    "foreign memory": {"a.txt": Attack(np.ndarray, (), np.dtype("O"), b"A" * 8)},
    "empty": b"",
    "no content": b"\x93NUMPY",
    "text instead": b"text",
    "LFS pointer": POINTER,
}


@pytest.mark.parametrize("content", [*REFUSED, "cut", "absent"])
def test_other_contents_and_damaged_files_are_refused_and_nothing_is_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path, held = tmp_path / "e.npy", REFUSED.get(content, VECTORS)
    if isinstance(held, bytes):
        path.write_bytes(held)
    elif content != "absent":
        np.save(path, held if content == "floats" else np.array(held, dtype=object))
    if content == "cut":
        os.truncate(path, path.stat().st_size - 20)
    with pytest.raises(InputError, match=r"e\.npy: .*LFS" if content == "LFS pointer" else r"e\.npy: "):
        load_embeddings(path, 4)
    assert not Path("marker").exists()
