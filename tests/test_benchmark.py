import pytest
import torch

import benchmark
from features.log_mel import LogMels
from training import measure_gpu
from training.graphs import WARM_UP, StaticStep
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
    assert [line[:14].rstrip() for line in lines] == ["pre-processing", "training step,", "GFLOP a window"]
    for line in lines:
        ours, plain, ratio = map(float, line.split()[-3:])
        assert ours / plain == pytest.approx(ratio, rel=0.02, abs=0.01)


def test_too_few_utterances_are_one_line(capsys):
    assert benchmark.main(["--utterances", "5", "--batch_size", "4"]) == 2
    assert capsys.readouterr().err == "error: --batch_size 4: two batches are needed, the corpus has 5 windows\n"


# Training on a GPU, tried on a CPU


@pytest.mark.parametrize("mode", ["--gpu", "--protocol"])
def test_without_a_gpu_and_a_size_it_is_one_line(capsys, mode):
    assert benchmark.main([mode, "--gpu_id", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {mode}: no CUDA GPU was chosen or found; for a trial on cpu add a size, as ")
    assert len(error.splitlines()) == 1


def table(lines: list[str], first: str) -> dict[str, list[str]]:
    """The rows of the Markdown table whose first heading is this, by their first cells."""
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[begin:] if line.startswith("|")]
    n = len(rows[0])
    assert rows[1] == ["---"] * n
    return {row[0]: row[1:] for row in rows[2:] if len(row) == n}


def test_the_tables_of_a_gpu_have_a_row_a_stage_and_a_row_a_way(capsys):
    size = ("--utterances", "4", "--batch_size", "2", "--epochs", "2")
    assert benchmark.main(["--gpu", "--gpu_id", "cpu", *size, "--ways", "eager", "graphed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("an epoch is 4 windows in 2 steps, 0.04 TFLOP")
    stages = table(lines, "ms a batch of 2")
    assert stages.keys() == {"batch assembly", "training step", "evaluation"}
    for plain, ours, ratio in ([float(cell.replace(",", "")) for cell in row] for row in stages.values()):
        assert ratio == pytest.approx(ours / plain, rel=0.1, abs=1e-4)
    ways = table(lines, "training")
    assert ways.keys() == {"eager", "plain, by its stages"}
    step, epoch, first, *_, memory = ways["eager"]
    mean, deviation = map(float, epoch.split(" ± "))
    assert float(first) > 0
    assert 0 <= deviation < mean
    assert float(step) > 0
    assert float(memory) > 0.3
    assert lines[-1] == "graphed: the device is cpu, and only CUDA GPUs have graphs"


def test_the_protocol_is_runs_of_main_with_their_tests(capfd):
    size = ("--utterances", "40", "--batch_size", "4", "--epochs", "1", "--folds", "1", "--gpu_id", "cpu")
    small = "--main_options=--modality text --hidden_size 8 --num_layers 1"
    assert benchmark.main(["--protocol", *size, small]) == 0
    captured = capfd.readouterr()
    assert "epoch 1/1" in captured.err  # of main.py
    lines = captured.out.splitlines()
    seconds = float(table(lines, "test sessions")["1-4"][0])
    assert f"1 folds of 1 epochs with tests with {small.partition('=')[2]}: {seconds} s" in lines
    assert benchmark.main(["--protocol", *size, "--main_options=--loss none"]) == 2
    assert capfd.readouterr().err.endswith("error: test on 1-4: main.py ended with status 2, see above\n")


def test_what_is_measured_in_each_way_is_the_same_training(monkeypatch):
    """A graphed epoch gives the weights of an eager one; here its steps are on a batch that stays in its place."""
    args = parsed("--utterances", "4", "--batch_size", "2", "--precision", "fp32")
    monkeypatch.setattr(measure_gpu, "GraphedStep", lambda step, *_: StaticStep(step))
    bench = measure_gpu.Bench(args, torch.device("cpu"))
    weights = []
    for way in ("eager", "graphed"):
        made = []
        monkeypatch.setattr(bench, "new_model", lambda made=made, new=bench.new_model: made.append(new()) or made[0])
        step = bench.make_step(way)
        assert isinstance(step, StaticStep) is (way == "graphed")
        bench.order.generator.manual_seed(0)
        assert bench.epoch(step, 0) > 0
        weights.append(made[0].state_dict())
    for name, expected in weights[0].items():
        assert torch.equal(weights[1][name], expected), name


def test_on_a_gpu_the_tables_have_its_name_its_memory_and_a_graphed_epoch(gpu, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(measure_gpu, "CALLS", 1)
    size = ("--utterances", "10", "--batch_size", "2", "--epochs", "1")
    assert benchmark.main(["--gpu", *size, "--ways", "eager", "graphed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cuda:0 (NVIDIA H100 80GB HBM3, 1 threads), torch ")
    ways = table(lines, "training")
    assert ways.keys() == {"eager", "graphed", "plain, by its stages"}
    for name in ("eager", "graphed"):
        assert ways[name][4].endswith("%")
        assert ways[name][5] == "3.00"
    assert gpu.graphs["recorded"] == 1
    assert gpu.graphs["replayed"] == 5 * 2 - WARM_UP + 2  # two epochs, and two calls of the stage
    assert {key: n for key, n in gpu.waits.items() if key[0] == "batch" and n} == {}
