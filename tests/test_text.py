import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import REFERENCE, ROOT

from features.text import KoBERTTokenizer, OwnTokenizer, embed_sentences, load_text_model
from utils import InputError

TEXTS = ["안녕?", "", "어제 밤을 새웠는데도 끝이 안 나네요. 정말 힘들어요.", "네.", "안녕?", "QR코드 6살"]


class Attack:
    """Calls `function(*arguments)` where it is unpickled without care."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture(scope="module")
def skt_tokenizer() -> KoBERTTokenizer:
    return KoBERTTokenizer(REFERENCE / "tokenizer" / "spiece.model")


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


def test_decomposed_hangul_has_the_ids_of_composed(skt_tokenizer):
    text = "네. 어제 밤을 새웠는데도 끝이 안 나네요."
    assert unicodedata.normalize("NFD", text) != text
    assert skt_tokenizer.encode(unicodedata.normalize("NFD", text)) == skt_tokenizer.encode(text)


def test_marks_that_a_sentence_spells_out_are_text(skt_tokenizer):
    ids = skt_tokenizer.encode("[SEP] 네 [CLS]")
    assert (ids[0], ids[-1]) == (2, 3)
    assert not {1, 2, 3, 4} & set(ids[1:-1])


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_embedding_is_the_masked_mean_of_one_sentence_at_a_time(text_model, batch_size):
    tokenizer, model = text_model
    expected = []
    with torch.inference_mode():
        for text in TEXTS:
            hidden = model(input_ids=torch.tensor([tokenizer.encode(text)])).last_hidden_state
            expected.append(hidden[0].mean(dim=0).numpy())
    embedding = embed_sentences(TEXTS, tokenizer, model, batch_size, quiet=True)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-5)
    assert np.abs(embedding[0] - embedding[2]).max() > 0.1  # sentences differ, so their order is tested


def test_equal_sentences_are_embedded_once_and_batches_are_of_like_length(text_model):
    tokenizer, model = text_model
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    embed_sentences(TEXTS * 3, tokenizer, model, 2, quiet=True)
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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("empty", r"config\.json: not found"),
        ("no vocabulary", r"its tokenizer has \d+ pieces, its encoder \d+; is the file of its vocabulary there"),
        ("other vocabulary", r"spiece\.model: not readable as a SentencePiece model"),
        ("no weights", r"encoder: not readable as a text model"),
        ("cut weights", r"encoder: not readable as a text model"),
        ("other config", r"encoder: not readable as a text model"),
        ("not JSON", r"encoder: not readable as a text model"),
    ],
)
def test_folders_that_hold_no_text_model_are_named(sample, tmp_path, damage, message):
    folder = tmp_path / "encoder"
    shutil.copytree(sample / "kobert", folder)
    match damage:
        case "empty":
            shutil.rmtree(folder)
            folder.mkdir()
        case "no vocabulary":
            (folder / "spiece.model").unlink()
        case "other vocabulary":
            (folder / "spiece.model").write_bytes(b"nothing of the kind")
        case "no weights":
            (folder / "pytorch_model.bin").unlink()
        case "cut weights":
            (folder / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes()[:1000])
        case "other config":
            (folder / "config.json").write_text('{"model_type": "nothing of the kind"}')
        case "not JSON":
            (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=message) as error:
        load_text_model(str(folder), 768)
    assert "\n" not in str(error.value)


def test_weights_that_call_something_are_refused_and_nothing_is_run(sample, tmp_path):
    shutil.copytree(sample / "kobert", tmp_path / "encoder")
    torch.save({"x": Attack(os.system, f"touch {tmp_path / 'marker'}")}, tmp_path / "encoder" / "pytorch_model.bin")
    with pytest.raises(InputError, match="not readable as a text model"):
        load_text_model(str(tmp_path / "encoder"), 768)
    assert not (tmp_path / "marker").exists()


# Other encoders, in the layout of klue/bert-base and klue/roberta-base: a WordPiece vocabulary and tokenizer settings


def make_encoder(folder: Path, kind: str) -> str:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"안녕어제밤을새웠는데도끝이네요정말힘들?.,QR코드6살"]
    vocabulary = [*vocabulary, *(f"##{piece}" for piece in vocabulary[5:])]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=False)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"vocab_size": len(vocabulary) + 3, "pad_token_id": 0}
    torch.manual_seed(0)
    if kind == "bert":
        config = transformers.BertConfig(**sizes, max_position_embeddings=20)
        model = transformers.BertModel(config)
    else:
        config = transformers.RobertaConfig(**sizes | {"pad_token_id": 1}, max_position_embeddings=22)
        model = transformers.RobertaModel(config)
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_other_encoders_bring_their_tokenizer_and_their_dimension(tmp_path, kind):
    tokenizer, model = load_text_model(make_encoder(tmp_path / kind, kind))
    assert isinstance(tokenizer, OwnTokenizer)
    assert model.config.hidden_size == 24
    with pytest.raises(InputError, match="embeddings of 24 values, --text_dim is 768"):
        load_text_model(str(tmp_path / kind), 768)
    own = transformers.AutoTokenizer.from_pretrained(tmp_path / kind)
    texts = [*TEXTS, "안녕 " * 50]
    expected = []
    with torch.inference_mode():
        for text in texts:
            ids = own(text, truncation=True, max_length=20)["input_ids"]
            assert tokenizer.encode(text) == ids
            assert len(ids) <= 20
            expected.append(model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0).numpy())
    assert len(tokenizer.encode(texts[-1])) == 20
    for order in (range(len(texts)), reversed(range(len(texts)))):
        numbers = list(order)
        embedding = embed_sentences([texts[i] for i in numbers], tokenizer, model, 3, quiet=True)
        np.testing.assert_allclose(embedding, [expected[i] for i in numbers], rtol=0, atol=1e-5)


def test_importing_the_module_imports_nothing_heavy():
    code = "import sys, features.text; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
