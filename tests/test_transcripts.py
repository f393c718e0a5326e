import pytest
from raw_corpus import faults, table

from corpora.transcripts import clean_transcript
from features.embeddings import load_embeddings


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("b/ 그래 l/ 알았어. n/", "그래 알았어."),
        ("N/ o/ u/ c/ s/", ""),
        ("그래 u/.", "그래 ."),
        (".b/ 그래", ". 그래"),
        ("(u/+u/) 뭐?", "뭐?"),
        ("그래 /n 응", "그래 응"),
        ("b/b/아니", "아니"),
        ("/n/ 응", "응"),
        ("l/n 응", "응"),
        ("응/n 그래", "응 그래"),
        ("BTSb/ 6b/ 112n/", "BTS 6 112"),
        ("on/off ON/OFF 24/7", "on/off ON/OFF 24/7"),
        ("b/sos", "sos"),
        ("(그래+아니) 몰라", "그래 아니 몰라"),
        ("(아뇨 + 밖에) 있어", "아뇨 밖에 있어"),
        ("((가+나)+다)", "가 나 다"),
        ("(아니잖아) 진짜", "아니잖아 진짜"),
        ("(닫히지 않은", "닫히지 않은"),
        ('*그가 "가자"  했어', "그가 가자 했어"),
        ("한 줄\n두 줄\r\n", "한 줄 두 줄"),
        ("BTS가 QR코드로 112에 6살 TF팀 b/", "BTS가 QR코드로 112에 6살 TF팀"),
        ("blnoucs USB는 sos 1+1 행사", "blnoucs USB는 sos 1+1 행사"),
        ("정말? 와! 음, 네.", "정말? 와! 음, 네."),
        ("", ""),
    ],
)
def test_transcripts_lose_their_markup_and_nothing_else(raw, cleaned):
    assert clean_transcript(raw) == cleaned


@pytest.mark.parametrize(
    ("content", "what", "text"),
    [
        (None, "no transcript", ""),
        (b"", "transcript that is empty", ""),
        (b" \n\n", "transcript that is empty", ""),
        (b"b/ (u/+u/)\n", "transcript that is empty once cleaned", ""),
        (b"\xff\xff\x80", "transcript that is not readable", ""),
        ("그래\n\n알았어\n".encode(), "transcript of several lines", "그래 알았어"),
        ("그래 알았어".encode("cp949"), None, "그래 알았어"),
    ],
    ids=["missing", "empty", "blank", "marks", "bytes", "lines", "cp949"],
)
def test_transcripts_of_any_kind(corpus, preprocessed, capsys, content, what, text):
    path = sorted((corpus / "wav").rglob("*.txt"))[3]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    found = faults(corpus, preprocessed, capsys)
    assert [(row.id, row.what) for row in found] == ([(path.stem, what)] if what else [])
    rows = table(corpus, "annotation.csv").query(f"`Segment ID` == '{path.stem}'")
    assert set(rows["text"]) == {text}
    there = f"{path.stem}.txt" in load_embeddings(corpus / "embedding_768.npy", 768)
    assert there is (what not in ("no transcript", "transcript that is not readable"))
