"""Train and test MATE on KEMDy19.

python main.py --SorL speaker --epochs 100
python main.py --test_only --test_path <experiment folder>
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constants import N_SESSIONS, SAMPLE_RATE, TEXT_DIM
from utils import (
    InputError,
    atomic_write,
    environment,
    find_run,
    load_weights,
    new_folder,
    pick_device,
    plot_loss_curve,
    read_json,
    run_command,
    save_weights,
    seed_everything,
    timestamp,
    write_json,
)

if TYPE_CHECKING:  # torch, pandas and the rest take seconds to import: --help does without
    import numpy as np
    import torch

    from dataset import Annotation, LogMels, WindowDataset

# Options that say what is tested and where; every other one is fixed by a trained model
TEST_OPTIONS = {
    *("save_path", "data_path", "audio_path", "SorL", "test_split", "batch_size", "num_workers", "gpu_id"),
    *("test_only", "test_path"),
}


# The command line


def sessions(value: str) -> list[int]:
    """`[1,8,9,13]`, `1,8,9,13`, `1-4` or a mixture as a sorted list of session numbers."""
    numbers: set[int] = set()
    for part in str(value).strip().strip("[]()").split(","):
        first, dash, last = part.strip().partition("-")
        try:
            found = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            found = range(0)
        if not found or found[0] < 1 or found[-1] > N_SESSIONS:
            raise argparse.ArgumentTypeError(
                f"{value!r}: expected sessions from 1 to {N_SESSIONS} such as [1,8,9,13], 1,8,9,13 or 1-4"
            )
        numbers.update(found)
    return sorted(numbers)


def switch(value: str) -> bool:
    """`True` or `False` as a configuration or a command line writes it."""
    if value.lower() not in {"true", "1", "yes", "false", "0", "no"}:
        raise argparse.ArgumentTypeError(f"{value!r}: expected True or False")
    return value.lower() in {"true", "1", "yes"}


def number(kind: type, low: float, high: float = float("inf"), inclusive: bool = True) -> Any:
    """An argparse type: a `kind` from `low` to `high`; `inclusive` of `high` or not."""

    def parse(value: str) -> float:
        try:
            parsed = kind(value)
        except ValueError:
            parsed = None
        if parsed is None or not low <= parsed <= high or (parsed == high and not inclusive):
            expected = (
                f"at least {low}" if high == float("inf") else f"from {low} to {'' if inclusive else 'below '}{high}"
            )
            raise argparse.ArgumentTypeError(f"{value!r}: expected {kind.__name__} {expected}")
        return parsed

    return parse


def gpu(value: str) -> str:
    """A GPU's number, or `cpu`."""
    if value != "cpu" and not value.isdecimal():
        raise argparse.ArgumentTypeError(f"{value!r}: expected a GPU's number or cpu")
    return value


def get_args_parser() -> argparse.ArgumentParser:
    """The command line. A run's `configuration.json` holds all of it."""
    parser = argparse.ArgumentParser(
        description="Train MATE on KEMDy19 (or a corpus in its layout), test it, and report F1 and CCC.",
        formatter_class=lambda prog: argparse.ArgumentDefaultsHelpFormatter(prog, max_help_position=40, width=130),
        allow_abbrev=False,
    )
    positive = number(int, 1)

    data = parser.add_argument_group("data").add_argument
    data("--data_path", type=Path, default="data/KEMDy19", help="corpus folder, preprocessed by preprocessing.py")
    data("--audio_path", type=Path, help="folder of the wavs, if neither DATA_PATH/wav nor ./audio")
    data("--SorL", choices=("speaker", "listener"), default="speaker", help="whose emotion is predicted")
    data("--test_split", type=sessions, default="13,14,15,16", metavar="SESSIONS", help="sessions to test on")
    data(
        "--valid_split",
        type=sessions,
        default=None,
        metavar="SESSIONS",
        help="sessions to validate on, taken from training",
    )
    data("--ws", type=positive, default=8, help="window: how many utterances the model sees")
    data("--sr", type=number(int, 4000, 48000), default=SAMPLE_RATE, help="sampling rate of the audio, Hz")
    data("--text_dim", type=positive, default=TEXT_DIM, help="length of a sentence embedding")
    data("--num_workers", type=number(int, 0), default=0, help="processes that assemble batches; 0: none beside this")

    model = parser.add_argument_group("model").add_argument
    model("--backbone", choices=("lstm", "gru"), default="lstm", help="recurrent network over the window")
    model("--hidden_size", type=positive, default=512, help="its hidden size")
    model("--num_layers", type=positive, default=4, help="its layers")
    model(
        "--bidirectional",
        type=switch,
        metavar="BOOL",
        nargs="?",
        const=True,
        default=False,
        help="run it in both directions",
    )
    model("--modality", choices=("audio_text", "audio", "text"), default="audio_text", help="what the model is given")
    model("--no_concat", action="store_true", help="keep the emotion probabilities from the affect heads")
    model("--embed_d", type=int, default=TEXT_DIM, help="recorded, without effect, as in the published program")

    training = parser.add_argument_group("training").add_argument
    training("--epochs", type=positive, default=100, help="passes over the training windows")
    training("--batch_size", type=positive, default=64, help="windows in a batch; the published figures depend on it")
    training("--optim", choices=("adam", "adamw", "adagrad", "sgd"), default="adam", help="optimizer")
    training("--lr", type=number(float, 0), default=1e-3, help="learning rate")
    training("--lr_gamma", type=number(float, 0), default=0.7, help="its factor at epochs/3 and epochs/2")
    training("--lr_decay", type=number(float, 0), default=0.0, help="Adagrad's own decay")
    training("--weight_decay", type=number(float, 0), default=1e-5, help="weight decay")
    training("--loss", choices=("normal", "cbloss"), default="normal", help="KLDiv + MSE, or class-balanced BCE + MSE")
    training("--lam", type=number(float, 0, 1), default=0.66, help="weight of the emotion's part of the loss")
    training("--beta", type=number(float, 0, 1, inclusive=False), default=0.99, help="of cbloss")
    training(
        "--select", choices=("last", "best"), default="last", help="epoch to test: last, or best by validation loss"
    )
    training("--seed", type=number(int, 0), default=0, help="of weights, shuffling and crops")

    run = parser.add_argument_group("run").add_argument
    run("--save_path", type=Path, default="exp", help="folder of the experiment folders")
    run("--gpu_id", type=gpu, help="a GPU's number, or cpu; without it the best there is")
    run(
        "--test_only", nargs="?", const=True, default=False, metavar="NAME", help="only test the experiment folder NAME"
    )
    run("--test_path", metavar="NAME", help="experiment folder to test: in SAVE_PATH, or a path")
    return parser


def parse_args(argv: list[str]) -> tuple[argparse.Namespace, set[str]]:
    """Arguments, and the names of those that the user gave.

    `--test_only --NAME`, as the published README writes it, means `--test_only NAME`.
    """
    parser = get_args_parser()
    argv = list(argv)
    if "--test_only" in argv[:-1]:
        after = argv.index("--test_only") + 1
        if argv[after].startswith("--") and argv[after].partition("=")[0] not in parser._option_string_actions:
            argv[after] = argv[after][2:]
    args = parser.parse_args(argv)
    unset = object()
    parser.set_defaults(**dict.fromkeys(vars(args), unset))
    given = {name for name, value in vars(parser.parse_args(argv)).items() if value is not unset}
    if isinstance(args.test_only, str):
        if args.test_path not in (None, args.test_only):
            parser.error(f"--test_only {args.test_only} and --test_path {args.test_path} name two folders")
        args.test_path, args.test_only = args.test_only, True
    if args.test_only and args.test_path is None:
        parser.error("--test_only: which experiment folder? Add --test_path NAME")
    if args.test_path is not None and not args.test_only:
        parser.error("--test_path goes with --test_only")
    if args.select == "best" and args.valid_split is None and not args.test_only:
        parser.error("--select best needs --valid_split")
    return args, given


# Wiring


def load_corpus(
    args: argparse.Namespace,
) -> tuple[Annotation, LogMels | None, torch.Tensor | None, dict[str, list[str]]]:
    """Annotation of the side `--SorL`, log-mels and sentence embeddings of its utterances, and what is missing."""
    import numpy as np
    import torch

    from dataset import LogMels, find_wavs, read_annotation, report_missing
    from kobert import load_embeddings

    if not args.data_path.is_dir():
        raise InputError(
            f"{args.data_path}: no such folder; put KEMDy19 there (data/README.md), or make the sample corpus "
            "with 'python data/make_sample.py' and pass --data_path data/sample"
        )
    annotation = read_annotation(args.data_path / f"df_{args.SorL}.csv")
    log_mels, text, missing = None, None, {}
    if "text" in args.modality:
        path = args.data_path / f"embedding_{args.text_dim}.npy"
        vectors = load_embeddings(path, args.text_dim)
        keys = [f"{segment}.txt" for segment in annotation.ids]
        missing["text"] = report_missing(annotation.ids, [key not in vectors for key in keys], "text", str(path))
        zeros = np.zeros(args.text_dim, dtype=np.float32)
        text = torch.from_numpy(np.stack([vectors.get(key, zeros) for key in keys]))
    if "audio" in args.modality:
        wavs, where = find_wavs(args.data_path, args.audio_path)
        paths = [wavs.get(segment) for segment in annotation.ids]
        missing["wav"] = report_missing(annotation.ids, [path is None for path in paths], "wav", where)
        log_mels = LogMels(paths, args.sr, progress=True)
    return annotation, log_mels, text, missing


def targets_of(annotation: Annotation, split: list[int], option: str) -> np.ndarray:
    """Numbers of the utterances of the sessions in `split`."""
    import numpy as np

    targets = np.flatnonzero(np.isin(annotation.session, split))
    if not len(targets):
        there = sorted(set(annotation.session.tolist()))
        raise InputError(f"{option} {split}: the corpus has no utterance of these sessions; it has {there}")
    return targets


def make_loader(
    dataset: WindowDataset, batch_size: int, num_workers: int, generator: torch.Generator | None = None
) -> torch.utils.data.DataLoader:
    """Batches of `dataset`: shuffled and without a partial last one if there is a `generator`, else in order, all."""
    from torch.utils.data import DataLoader

    from dataset import unchanged

    return DataLoader(
        dataset,
        batch_size,
        shuffle=generator is not None,
        drop_last=generator is not None,
        generator=generator,
        num_workers=num_workers,
        collate_fn=unchanged,
    )


def build_model(args: argparse.Namespace) -> torch.nn.Module:
    """The MATE that the arguments describe, its convolutions channels-last: 0.7 of the time of contiguous ones."""
    import torch

    from model import MATE

    model = MATE(
        backbone=args.backbone,
        hidden_size=args.hidden_size,
        num_layers=args.num_layers,
        bidirectional=args.bidirectional,
        text_dim=args.text_dim,
        ws=args.ws,
        sr=args.sr,
        concat=not args.no_concat,
        modality=args.modality,
    )
    if model.uses_audio:
        model.audio_embedding.to(memory_format=torch.channels_last)
    return model


def train(args: argparse.Namespace) -> Path:
    """Train, test, and return the experiment folder."""
    import pandas as pd
    import torch
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    from constants import EMOTIONS
    from dataset import WindowDataset
    from engine import NonFiniteLoss, evaluate, make_optimizer, make_scheduler, train_one_epoch
    from loss import make_loss

    held_out = set(args.test_split)
    if held_out & set(args.valid_split or []):
        raise InputError(f"--valid_split {args.valid_split} and --test_split {args.test_split} share sessions")
    device = pick_device(args.gpu_id)
    seed_everything(args.seed)
    annotation, log_mels, text, missing = load_corpus(args)

    def subset(targets: np.ndarray, train: bool) -> WindowDataset:
        return WindowDataset(annotation, targets, args.ws, log_mels, text, train, args.seed)

    held_out |= set(args.valid_split or [])
    train_split = [session for session in sorted(set(annotation.session.tolist())) if session not in held_out]
    test_set = subset(targets_of(annotation, args.test_split, "--test_split"), train=False)
    train_set = subset(targets_of(annotation, train_split, "training on"), train=True)
    valid_set = None
    if args.valid_split:
        valid_set = subset(targets_of(annotation, args.valid_split, "--valid_split"), train=False)
        valid_set.emotion = torch.from_numpy(annotation.soft[valid_set.targets])  # the loss wants soft labels
    if len(train_set) < args.batch_size:
        raise InputError(
            f"--batch_size {args.batch_size}: training has {len(train_set)} windows and drops its last partial batch; "
            f"give at most {len(train_set)}"
        )

    model = build_model(args).to(device)
    optimizer = make_optimizer(args.optim, model, args.lr, args.lr_decay, args.weight_decay)
    scheduler = make_scheduler(optimizer, args.epochs, args.lr_gamma)
    loss_function = make_loss(args.loss, args.lam, args.beta, train_set.class_counts, device)
    train_loader = make_loader(train_set, args.batch_size, args.num_workers, torch.Generator().manual_seed(args.seed))
    valid_loader = make_loader(valid_set, args.batch_size, args.num_workers) if valid_set else None

    folder = new_folder(args.save_path, f"{args.backbone}_{args.SorL}_{args.optim}_{args.ws}_{timestamp()}")
    write_json(
        folder / "configuration.json",
        serialisable(args)
        | {
            "train_split": train_split,
            "windows": {"train": len(train_set), "valid": len(valid_set) if valid_set else 0, "test": len(test_set)},
            "class_counts": dict(zip(EMOTIONS, train_set.class_counts.tolist(), strict=True)),
            "missing": missing,
        }
        | environment(device),
    )

    history: list[dict[str, float]] = []
    best = float("inf")
    n_steps = len(train_loader)
    with (
        tqdm(total=args.epochs * n_steps, desc="training", unit="step", dynamic_ncols=True) as bar,
        SummaryWriter(str(folder)) as tensorboard,
    ):

        def on_step(mean_loss: float | None) -> None:
            if mean_loss is not None:
                shown["loss"] = f"{mean_loss:.3f}"
                bar.set_postfix(shown, refresh=False)
            bar.update()

        for epoch in range(1, args.epochs + 1):
            lr = optimizer.param_groups[0]["lr"]
            shown = {"epoch": f"{epoch}/{args.epochs}", "lr": f"{lr:.1e}"}
            if history and valid_set:
                shown["valid"] = f"{history[-1]['valid_loss']:.3f}"
            train_set.set_epoch(epoch)
            row = {"epoch": epoch, "lr": lr}
            try:
                row["train_loss"] = train_one_epoch(
                    model, train_loader, n_steps, loss_function, optimizer, device, (epoch - 1) * n_steps + 1, on_step
                )
            except NonFiniteLoss as error:
                kept = (
                    f"{folder} keeps the weights of epoch {epoch - 1}" if history else f"{folder} holds no weights yet"
                )
                raise InputError(
                    f"{error}; {kept}; try a smaller --lr, or look for odd values in the corpus"
                ) from error
            if valid_loader:
                _, row["valid_loss"] = evaluate(model, valid_loader, len(valid_loader), device, loss_function)
            scheduler.step()
            history.append(row)
            for name in ("train_loss", "valid_loss", "lr"):
                if name in row:
                    tensorboard.add_scalar(name, row[name], epoch)
            if args.select == "last" or row["valid_loss"] < best:
                best = row.get("valid_loss", best)
                save_weights(model, folder / "model.pth")
            with atomic_write(folder / "history.csv") as file:
                pd.DataFrame(history).to_csv(file, index=False)
            with atomic_write(folder / "train_loss.log") as file:
                file.writelines(f"epoch {r['epoch']} loss {r['train_loss']:.6f}\n" for r in history)
    plot_loss_curve(history, folder / "loss_curve.png")

    load_weights(model, folder / "model.pth")
    arrays = predict(args, model, test_set, device)
    report_test(args, folder, annotation, test_set, arrays, int(train_set.class_counts.argmax()))


def predict(
    args: argparse.Namespace, model: torch.nn.Module, test_set: WindowDataset, device: torch.device
) -> dict[str, np.ndarray]:
    """Predictions of the windows to test."""
    from engine import evaluate

    loader = make_loader(test_set, args.batch_size, args.num_workers)
    return evaluate(model, loader, len(loader), device, description="testing")[0]


def report_test(
    args: argparse.Namespace,
    folder: Path,
    annotation: Annotation,
    test_set: WindowDataset,
    arrays: dict[str, np.ndarray],
    majority: int,
) -> None:
    """Write a test's files into `folder` and print its report."""
    from report import describe_result, write_result

    ids = [annotation.ids[target] for target in test_set.targets]
    result = write_result(folder, ids, arrays, majority, args.batch_size)
    print(describe_result(result, folder, args.SorL, args.test_split))


def serialisable(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments as JSON can hold them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}


def configure_test(args: argparse.Namespace, given: set[str], path: Path) -> argparse.Namespace:
    """Arguments of a test: the configuration of the trained model, and over it what the user gave of `TEST_OPTIONS`.

    Adds `train_split`, the sessions that were trained on: where the configuration does not say, all others than its
    test and validation sessions.

    Raises
    ------
    InputError : the configuration holds an impossible value, or the user gave an option that contradicts it
    """
    stored = read_json(path)
    if "versions" not in stored:  # the published program's: its --sr had no effect, and it always had four layers
        stored |= {"sr": SAMPLE_RATE, "num_layers": 4}
    configured, trained = argparse.Namespace(**vars(args)), {}
    for action in get_args_parser()._actions:
        name = action.dest
        if name not in stored or name in {"save_path", "gpu_id", "num_workers", "test_only", "test_path"}:
            continue
        value = stored[name]
        if value is not None:
            try:
                convert = switch if isinstance(action.default, bool) else action.type or str
                value = convert(str(value))
            except argparse.ArgumentTypeError as error:
                raise InputError(f"{path}: {name}: {error}") from error
            if action.choices and value not in action.choices:
                raise InputError(f"{path}: {name} {value!r}, expected one of {', '.join(action.choices)}")
        trained[name] = value
        if name not in given:
            setattr(configured, name, value)
        elif name not in TEST_OPTIONS and getattr(args, name) != value:
            raise InputError(f"--{name} {getattr(args, name)}: the model in {path.parent} was trained with {value}")
    held_out = {*trained.get("test_split", args.test_split), *(trained.get("valid_split") or [])}
    configured.train_split = stored.get("train_split") or [s for s in range(1, N_SESSIONS + 1) if s not in held_out]
    return configured


def test(args: argparse.Namespace, given: set[str]) -> None:
    """Test an experiment folder, of this program or of the published one, into a new folder inside it."""
    import numpy as np

    from dataset import WindowDataset

    folder = find_run(args.save_path, args.test_path)
    args = configure_test(args, given, folder / "configuration.json")
    device = pick_device(args.gpu_id)
    model = build_model(args)
    load_weights(model, folder / "model.pth")
    annotation, log_mels, text, missing = load_corpus(args)
    targets = targets_of(annotation, args.test_split, "--test_split")
    test_set = WindowDataset(annotation, targets, args.ws, log_mels, text, train=False)

    trained = np.isin(annotation.session, args.train_split)
    seen = sorted(set(args.train_split) & set(args.test_split))
    if seen:
        warnings.warn(f"the model was trained on sessions {seen}, which are tested here", stacklevel=2)
    majority = int(annotation.majority[trained].sum(axis=0).argmax())
    arrays = predict(args, model.to(device), test_set, device)

    into = new_folder(folder, f"test_{timestamp()}")
    write_json(into / "configuration.json", serialisable(args) | {"missing": missing} | environment(device))
    report_test(args, into, annotation, test_set, arrays, majority)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args, given = parse_args(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: test(args, given) if args.test_only else train(args))


if __name__ == "__main__":
    sys.exit(main())
