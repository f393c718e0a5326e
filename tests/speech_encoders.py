"""Tiny speech encoders with random weights, one of each family and kind of feature extractor."""

from pathlib import Path

import torch
import transformers

SIZE = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24},
    **{"conv_dim": (8, 8, 8), "conv_kernel": (10, 8, 4), "conv_stride": (5, 8, 8), "num_feat_extract_layers": 3},
    **{"num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 2, "vocab_size": 8},
}
GROUP, LAYER = {"feat_extract_norm": "group"}, {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
CONFIGURATIONS = {
    "wav2vec2-group": lambda: transformers.Wav2Vec2Config(**SIZE, **GROUP),
    "hubert-group": lambda: transformers.HubertConfig(**SIZE, **GROUP),
    "hubert-layer": lambda: transformers.HubertConfig(**SIZE, **LAYER, conv_bias=True),
    "wavlm-layer": lambda: transformers.WavLMConfig(**SIZE, **LAYER, conv_bias=True),
    "data2vec-audio": lambda: transformers.Data2VecAudioConfig(
        **SIZE | {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}
    ),
    "whisper": lambda: transformers.WhisperConfig(
        **{"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24},
        **{"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "vocab_size": 20},
        **{"num_mel_bins": 8, "max_source_positions": 100, "max_target_positions": 8},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    ),
}


def make_encoder(folder: Path, family: str, seed: int = 0) -> Path:
    """Save a tiny encoder of a family in a folder of its name; returns it."""
    torch.manual_seed(seed)
    configuration = CONFIGURATIONS[family]()
    model = transformers.AutoModel.from_config(configuration).eval()
    if family == "whisper":  # of 2 s in place of 30
        extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask="layer" in family)
    for part in (model, extractor):
        part.save_pretrained(folder / family)
    return folder / family
