import pytest
import torch

import benchmark
from features.log_mel import LogMels
from training.plain import plain_model, plain_steps


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> benchmark.Corpus:
    folder = tmp_path_factory.mktemp("benchmark")
    benchmark.make_corpus(folder / "corpus", 12)
    return benchmark.read_corpus(folder / "corpus", folder / "features")


def parsed(*options: str):
    return benchmark.get_args_parser().parse_args(["--gpu_id", "cpu", *options])


def test_both_sides_compute_the_same_numbers(corpus):
    for dtype, tolerance in (("float32", 1e-5), ("float16", 2e-3)):
        of_log_mels, of_probabilities = benchmark.differences(corpus, parsed("--feature_dtype", dtype), utterances=4)
        assert of_log_mels < 1e-4
        assert 0 < of_probabilities < tolerance


def test_both_sides_train_the_same(corpus):
    torch.manual_seed(0)
    args = parsed("--feature_dtype", "float32", "--precision", "fp32", "--batch_size", "8")
    ours = benchmark.Ours(corpus, args)
    plain = plain_model(ours.model)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    ours.optimizer = torch.optim.SGD(ours.model.parameters(), lr=0.1)
    plain_set, batch = benchmark.plain_windows(corpus), ours.batch(list(range(2, 10)))
    plain_batch = torch.utils.data.default_collate([plain_set[index] for index in range(2, 10)])
    for theirs, mine in zip(plain_batch, batch[:5], strict=True):
        torch.testing.assert_close(theirs.view_as(mine), mine, rtol=0, atol=1e-4)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    assert plain_steps(plain, optimizer, [plain_batch], benchmark.LOSS) == 8
    assert ours.train([batch]) == 8
    for name in ("audio_embedding.0.conv.weight", "lstm.weight_ih_l0", "mlp_emotion.4.bias"):
        step, expected = (model.state_dict()[name] - before[name] for model in (ours.model, plain))
        assert (step - expected).norm() < 0.05 * expected.norm()


def test_waiting_is_counted_and_changes_no_batch(corpus):
    ours = benchmark.Ours(corpus, parsed("--batch_size", "4"))
    assert [len(batch.text) for batch in ours.epoch()] == [4, 4, 4]
    assert ours.waited == 0
    assert ours.train(ours.epoch()) == 12
    assert ours.waited > 0


def test_a_corpus_is_read_and_its_own_store_left_alone(preprocessed, tmp_path):
    before = {path.name for path in preprocessed.iterdir()}
    corpus = benchmark.read_corpus(preprocessed, tmp_path / "features")
    assert len(corpus.annotation.ids) == len(corpus.wavs) > 0
    assert isinstance(benchmark.features(corpus, parsed()), LogMels)
    assert {path.name for path in preprocessed.iterdir()} == before


def test_the_table_has_a_line_a_stage(capsys):
    assert benchmark.main(["--utterances", "4", "--batch_size", "2", "--rounds", "1", "--gpu_id", "cpu"]) == 0
    out = capsys.readouterr().out
    for stage in ("feature build", "batch assembly", "training step", "evaluation", "whole epoch", "peak memory"):
        (line,) = (line for line in out.splitlines() if line.startswith(stage))
        plain, ours, ratio = map(float, line.split()[-3:])
        assert min(plain, ours, ratio) > 0
    assert "GFLOP a window" in out
    assert "of an epoch; feature store" in out


def test_speech_has_a_line_a_comparison(capsys, monkeypatch):
    import transformers

    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tiny |= {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    base = transformers.Wav2Vec2Config
    monkeypatch.setattr(transformers, "Wav2Vec2Config", lambda: base(**tiny))
    options = ["--speech", "--utterances", "3", "--batch_size", "2", "--rounds", "1", "--gpu_id", "cpu"]
    assert benchmark.main(options) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["pre-processing", "training step"]
    assert all(float(value) > 0 for line in lines for value in line.split()[-3:])


def test_too_few_utterances_are_one_line(capsys):
    assert benchmark.main(["--utterances", "5", "--batch_size", "4"]) == 2
    assert capsys.readouterr().err == "error: --batch_size 4: two batches are needed, the corpus has 5 windows\n"
