"""Recordings of phones and browsers, and a tiny random Whisper, made on the spot."""

from pathlib import Path

import av
import numpy as np
import torch
import transformers
from tokenizers import AddedToken
from transformers.convert_slow_tokenizer import bytes_to_unicode


def write_recording(
    path: Path,
    samples: np.ndarray,
    rate: int = 16_000,
    codec: str = "aac",
    video: bool = False,
    options: dict | None = None,
) -> Path:
    """Write int16 samples, shape = (n, channels), in the container that the ending names; perhaps with a picture."""
    layout = ("mono", "stereo")[samples.shape[1] - 1]
    with av.open(str(path), "w", options=options) as file:
        picture = file.add_stream("mpeg4", rate=25, width=32, height=32) if video else None
        stream = file.add_stream(codec, rate=rate, layout=layout) if len(samples) else None
        if picture:
            frame = av.VideoFrame(32, 32, "yuv420p")
            file.mux([*picture.encode(frame), *picture.encode(None)])
        if stream:
            frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "s16", layout)
            frame.rate = rate
            file.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def make_whisper(folder: Path, seed: int = 0, says: str = "123") -> Path:
    """Save a tiny Whisper with random weights that says these letters in ko or en."""
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|ko|>", "<|translate|>", "<|transcribe|>"]
    special += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    pieces = {piece: at for at, piece in enumerate([*sorted(bytes_to_unicode().values()), *special])}
    tokenizer = transformers.WhisperTokenizer(pieces, [])
    tokenizer.add_tokens([AddedToken(name, special=True) for name in special], special_tokens=True)
    tokenizer.pad_token = special[0]
    tokenizer.add_tokens([AddedToken(f"<|{at * 0.02:.2f}|>", special=False) for at in range(1501)])
    ids = tokenizer.convert_tokens_to_ids
    marks = {"pad_token_id": ids(special[0]), "eos_token_id": ids(special[0]), "bos_token_id": ids(special[0])}
    marks["decoder_start_token_id"] = ids(special[1])
    size = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
    size |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "max_target_positions": 24}
    torch.manual_seed(seed)
    config = transformers.WhisperConfig(vocab_size=len(tokenizer), **size, **marks)
    model = transformers.WhisperForConditionalGeneration(config)
    letters = [at for piece, at in pieces.items() if piece not in (*says, special[0])]
    model.generation_config = transformers.GenerationConfig(
        **marks,
        suppress_tokens=letters,
        is_multilingual=True,
        lang_to_id={name: ids(name) for name in ("<|en|>", "<|ko|>")},
        max_length=24,
        task_to_id={"translate": ids("<|translate|>"), "transcribe": ids("<|transcribe|>")},
        no_timestamps_token_id=ids("<|notimestamps|>"),
        prev_sot_token_id=ids("<|startofprev|>"),
        max_initial_timestamp_index=50,
        return_timestamps=False,
    )
    for part in (model, tokenizer, transformers.WhisperFeatureExtractor()):
        part.save_pretrained(folder)
    return folder
