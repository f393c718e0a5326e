"""The known corpora: by their ids, by their tables, and what is said of a folder that holds none or two of them."""

import shutil

import pytest

from corpora import registry
from corpora.base import SegmentId
from corpora.missing import report_missing
from utils import InputError

KEMDY19_ID, KEMDY20_ID = "Sess07_impro02_M031", "Sess40_script06_User080F_012"


def test_ids_are_of_their_corpus():
    assert registry.corpus_of(KEMDY19_ID).name == "KEMDy19"
    assert registry.corpus_of(KEMDY20_ID).name == "KEMDy20"
    assert registry.parse_id(KEMDY19_ID) == SegmentId(7, "Sess07_impro02", "M", 31, "impro02")
    assert registry.parse_id(KEMDY20_ID) == SegmentId(40, "Sess40_script06", "User080", 12, "script06")
    for segment in ("Sess01_F001", "Sess01_impro01_User001F_001", "Sess01_script01_User01F_001", f"{KEMDY20_ID} "):
        assert registry.corpus_of(segment) is None
        assert registry.parse_id(segment) is None
    with pytest.raises(InputError, match=r"^there: none of the 1 utterances of Sess40 has a wav there"):
        report_missing([KEMDY19_ID] * 40 + [KEMDY20_ID], [False] * 40 + [True], "wav", "there")


def test_folders_are_of_the_corpus_of_their_tables(sample, sample20, preprocessed, preprocessed20, tmp_path):
    assert registry.corpus_in(sample).name == "KEMDy19"
    assert registry.corpus_in(sample20).name == "KEMDy20"
    assert registry.preprocessed_corpus(preprocessed).name == "KEMDy19"
    assert registry.preprocessed_corpus(preprocessed20).name == "KEMDy20"
    for content in (b"", b"\0", b'"', b"Segment ID\n", b"a,b\n1,2\n"):
        (tmp_path / "df_speaker.csv").write_bytes(content)
        assert registry.preprocessed_corpus(tmp_path).name == "KEMDy19"  # which then says what is wrong


def test_a_mixture_of_corpora_names_what_was_found(sample, sample20, tmp_path):
    for corpus in (sample, sample20):
        shutil.copytree(corpus / "annotation", tmp_path / "annotation", dirs_exist_ok=True)
    with pytest.raises(
        InputError, match=r"holds Session01_F_res\.csv of KEMDy19 and Sess01_eval\.csv of KEMDy20; give each corpus"
    ):
        registry.corpus_in(tmp_path)


def test_folders_of_no_corpus(tmp_path):
    with pytest.raises(
        InputError, match=r"nowhere: no such folder; put KEMDy19 or KEMDy20 there, data/README\.md says how$"
    ):
        registry.corpus_in(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"annotation: no table such as Session01_F_res\.csv or Sess01_eval\.csv; --data_path is"
    ):
        registry.corpus_in(tmp_path)
