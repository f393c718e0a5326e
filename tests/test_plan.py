import itertools

import pytest

from sweeps.command_line import parse_plan
from sweeps.plan import check_corpora
from training.options import parse_args
from utils import InputError


def test_a_grid_has_a_run_for_every_combination():
    grid = ["--grid", "lam=0.5,0.6", "no_concat=no,yes", "--test_split", "1-4", "17,18"]
    plan = parse_plan(["run", *grid, "--SorL", "listener", "--seeds", "2", "--beta", "0.9"])
    assert list(plan.tables) == ["grid"]
    runs = [(planned, parse_args(planned.argv)[0]) for planned in plan.runs]
    assert {(args.lam, args.no_concat, tuple(args.test_split), args.seed) for _, args in runs} == {
        *itertools.product((0.5, 0.6), (False, True), ((1, 2, 3, 4), (17, 18)), (0, 1))
    }
    assert len({planned.run_id for planned in plan.runs}) == len(runs) == 16
    assert all((args.SorL, args.beta, args.epochs) == ("listener", 0.9, 100) for _, args in runs)
    for planned, args in runs:
        assert planned.row == f"lam={args.lam} no_concat={'yes' if args.no_concat else 'no'}"
        assert list(planned.fold) == args.test_split
    assert plan.settings["beta"] == 0.9
    assert not {"lam", "no_concat", "SorL", "seed"} & set(plan.settings)


@pytest.mark.parametrize("asked", [["3.6"], ["--grid", "lam=0.5,0.66"]], ids=["table", "grid"])
def test_tables_and_grids_keep_the_settings_that_the_paper_chose_by(asked):
    runs = [parse_args(planned.argv)[0] for planned in parse_plan(["run", *asked]).runs]
    assert {(args.epochs, *args.test_split, args.optim) for args in runs} == {(100, 13, 14, 15, 16, "adam")}
    shorter = parse_plan(["run", *asked, "--epochs", "3"]).runs
    assert {parse_args(planned.argv)[0].epochs for planned in shorter} == {3}
    as_before = ["--epochs", "100", "--embed_d", "768"]  # runs that older defaults made still count
    assert [run.run_id for run in parse_plan(["run", *asked, *as_before]).runs] == [
        run.run_id for run in parse_plan(["run", *asked]).runs
    ]


def test_a_published_row_has_the_options_of_its_role():
    runs = parse_plan(["list", "3.7", "--compile"]).runs
    assert [planned.label for planned in runs[:2]] == [
        "3.7 best, speaker, test 1-4, seed 0",
        "3.7 best, speaker, test 5-8, seed 0",
    ]
    options = {}
    for planned in runs:
        args, given = parse_args(planned.argv)
        options.setdefault(planned.role, set()).add((args.loss, args.lam, args.beta))
        assert args.compile
        assert "compile" in given
    assert options == {"speaker": {("normal", 0.75, 0.99)}, "listener": {("cbloss", 0.9, 0.9)}}


def test_beyond_has_each_option_alone_and_all_together_on_five_folds_with_three_seeds():
    plan = parse_plan(["run", "beyond"])
    assert list(plan.tables) == ["beyond"]
    found = {}
    for planned in plan.runs:
        args, _ = parse_args(planned.argv)
        found[planned.row] = (args.modality, args.audio, args.speakers, args.affect_loss)
    assert found == {
        "MATE": ("audio_text", "cnn", False, "mse"),
        "speakers": ("audio_text", "cnn", True, "mse"),
        "ccc": ("audio_text", "cnn", False, "ccc"),
        "encoder": ("audio_text", "encoder", False, "mse"),
        "all": ("audio_text", "encoder", True, "ccc"),
        "text alone": ("text", "cnn", False, "mse"),
        "encoder alone": ("audio", "encoder", False, "mse"),
    }
    assert len({planned.run_id for planned in plan.runs}) == len(plan.runs) == 7 * 2 * 5 * 3
    one = parse_plan(["run", "beyond", "--seeds", "1", "--SorL", "speaker", "--audio_model", "hubert"]).runs
    assert len(one) == 7 * 5
    default = parse_plan(["run", "3.2", "--SorL", "speaker"]).runs
    assert {run.run_id for run in default} == {run.run_id for run in one if run.row == "MATE"}  # the encoder is not its
    assert "beyond" not in parse_plan(["run"]).tables  # it has to be named
    assert "beyond" in parse_plan(["list"]).tables


def test_each_fold_is_validated_on_the_one_after_it(preprocessed, preprocessed20):
    chosen = ["--valid_split", "next", "--select", "best", "--SorL", "speaker"]
    plan = parse_plan(["run", "3.2", "3.3", *chosen])
    found = {planned.fold: parse_args(planned.argv)[0].valid_split for planned in plan.runs}
    first = [tuple(range(n, n + 4)) for n in range(1, 20, 4)]
    assert found == {fold: [*first[(number + 1) % 5]] for number, fold in enumerate(first)}
    assert plan.settings["valid_split"] == "next"
    fixed = parse_plan(["run", "3.3", "--valid_split", "17-20", "--SorL", "speaker"])
    assert {tuple(parse_args(planned.argv)[0].valid_split) for planned in fixed.runs} == {(17, 18, 19, 20)}
    assert fixed.settings["valid_split"] == [17, 18, 19, 20]
    assert {run.run_id for run in fixed.runs} < {run.run_id for run in parse_plan(["run", "3.3", *chosen[:2]]).runs}
    runs = parse_plan(["run", "--valid_split", "next", "--data_path", str(preprocessed20)]).runs
    assert [*parse_args(runs[-1].argv)[0].valid_split] == [*range(1, 9)]
    with pytest.raises(InputError, match="--valid_split next: test sessions 1-3 are no fold of one corpus"):
        parse_plan(["run", "--grid", "lam=0.5", "--test_split", "1-3", "--valid_split", "next"])
    both = ["--data_path", str(preprocessed), str(preprocessed20), "--test_split", "KEMDy19:13-16"]
    with pytest.raises(InputError, match="test sessions KEMDy19:13-16 are no fold of one corpus"):
        parse_plan(["run", "--grid", "lam=0.5", *both, "--valid_split", "next"])
    assert parse_plan(["report", "grid", "--valid_split", "17-20", "--select", "best"]).runs == []


def test_kemdy20_has_beyond_on_its_own_folds(preprocessed20):
    runs = parse_plan(["run", "beyond", "--data_path", str(preprocessed20)]).runs
    assert {planned.role for planned in runs} == {"speaker"}
    assert len({planned.fold for planned in runs}) == 5
    assert (1, 2, 3, 4, 5, 6, 7, 8) in {planned.fold for planned in runs}


def test_the_published_tables_take_the_options_beyond_mate():
    for planned in parse_plan(["run", "3.3", "--speakers", "--audio", "encoder", "--affect_loss", "ccc"]).runs:
        args, _ = parse_args(planned.argv)
        assert (args.speakers, args.audio, args.affect_loss) == (True, "encoder", "ccc")


def test_a_missing_or_damaged_corpus_is_named(preprocessed, tmp_path):
    check_corpora([preprocessed], "speaker")
    with pytest.raises(InputError, match=r"corpus: no such folder; pass --data_path"):
        check_corpora([tmp_path / "corpus"], "speaker")
    with pytest.raises(InputError, match=r"df_listener\.csv: not found; run preprocessing\.py"):
        check_corpora([tmp_path], "listener")


def test_kemdy20_has_its_own_five_folds_and_refuses_the_published_tables(preprocessed20, preprocessed, tmp_path):
    plan = parse_plan(["run", "--data_path", str(preprocessed20)])
    assert list(plan.tables) == ["KEMDy20"]
    assert {planned.role for planned in plan.runs} == {"speaker"}
    assert [planned.fold for planned in plan.runs] == [tuple(range(first, first + 8)) for first in range(1, 40, 8)]
    grid = parse_plan(["run", "--grid", "lam=0.5", "--data_path", str(preprocessed20)])
    assert [(planned.role, planned.fold) for planned in grid.runs] == [("speaker", tuple(range(1, 9)))]
    check_corpora([preprocessed20], "speaker", [*plan.tables, *grid.tables])
    with pytest.raises(
        InputError, match=r"^table 3\.2: not of KEMDy20, which .* holds; for it there are KEMDy20, beyond and"
    ):
        check_corpora([preprocessed20], "speaker", ["3.2"])
    with pytest.raises(InputError, match=r"^table KEMDy20: not of KEMDy19, which"):
        check_corpora([preprocessed], "speaker", ["KEMDy20"])
    with pytest.raises(InputError, match=r"^--SorL listener: .* holds KEMDy20, in which nobody is rated as listener"):
        check_corpora([preprocessed20], "listener")
    assert "KEMDy20" not in parse_plan(["list", "--data_path", str(tmp_path)]).tables  # as KEMDy19


def test_the_sampler_may_be_compared_on_kemdy20(preprocessed20):
    plan = parse_plan(["run", "KEMDy20", "--sampler", "weighted", "--data_path", str(preprocessed20)])
    assert {parse_args(planned.argv)[0].sampler for planned in plan.runs} == {"weighted"}
