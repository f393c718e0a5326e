"""Fine-tune a text or a speech encoder on the training sessions of a corpus, one utterance at a time.

python finetune.py --data_path data/KEMDy19 --text_model klue/roberta-base --test_split 13-16
python finetune.py --data_path data/KEMDy19 --audio_model team-lucid/hubert-base-korean --test_split 13-16
torchrun --nproc_per_node 2 finetune.py ...

The folder that it makes is an encoder, for preprocessing.py --text_model FOLDER or --audio_model FOLDER.
"""

from __future__ import annotations

import training  # noqa: F401, isort: skip (before all others: see there)

import argparse
import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch
import transformers
from accelerate import PartialState
from huggingface_hub import ModelCardData
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

import metric
from constants import AFFECT_RANGE, LEARNT, MAX_SECONDS, N_EMOTIONS, PRECISIONS, ROLES, TRACKERS
from corpora.sessions import format_sessions, parse_sessions, training_sessions
from corpora.utterances import read_utterances, shares
from corpora.wavs import find_wavs, read_wav
from features.encoders import encoder_name
from features.speech_encoder import SpeechEncoder, load_speech_encoder
from features.store import try_to_read
from features.text import TextEncoder, _find_vocabulary, load_text_encoder
from loss import Loss, Outputs, make_loss
from reports.predictions import predictions_table, write_predictions
from reports.result import format_interval
from training import devices, engine
from training.learnt import add_learnt, check_learnt, learnt_text
from training.options import ArgumentParser, file_path, gpu, number
from training.record import corpus_facts, described, digest_of, resolve_sessions
from utils import InputError, fault_of_machine, first_line, lock_folder, read_json, run_command, write_json

Inputs = dict[str, Tensor | Path]  # by id the tokens of a text, or the path of a wav
RECORD, CHECKPOINTS = "finetune.json", "checkpoints"
OF_CALL = ("data_path", "audio_path", "save_path", "resume", "report_to", "gpu_id")  # options that no record has
FIGURES = ("balanced_accuracy", "arousal_mae", "valence_mae", *metric.WHOLE_FIGURES)


class Utterances(torch.utils.data.Dataset):
    """Input and labels of utterances; a wav is read when it is asked for, its central 10 s at most."""

    def __init__(self, table: pd.DataFrame, inputs: Inputs, encoder: TextEncoder | SpeechEncoder) -> None:
        self.inputs, self.rate = [inputs[segment] for segment in table["id"]], getattr(encoder, "rate", None)
        labels = np.column_stack([shares(table), table[[*metric.AFFECT]]])
        self.labels = torch.from_numpy(labels.astype(np.float32))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> tuple[Tensor | np.ndarray, Tensor]:
        found = self.inputs[i]
        if isinstance(found, Path):
            found, n = read_wav(found, self.rate), MAX_SECONDS * self.rate
            found = found[max(0, (len(found) - n) // 2) :][:n]
        return found, self.labels[i]


def collate(items: Sequence[tuple]) -> dict[str, Any]:
    """The arguments of `EmotionModel.forward`."""
    return {"labels": torch.stack([labels for _, labels in items]), "inputs": [found for found, _ in items]}


class EmotionModel(nn.Module):
    """An encoder with a linear head for the emotions, and one for arousal and valence, over an utterance's embedding.

    The embedding is the one that preprocessing.py computes; of a speech encoder it is that of the last layer.
    """

    def __init__(self, encoder: TextEncoder | SpeechEncoder, loss: Loss) -> None:
        super().__init__()
        self.source, self.encoder, self.loss = encoder, encoder.model, loss
        self.emotion, self.affect = (nn.Linear(encoder.shape[-1], n) for n in (N_EMOTIONS, 2))
        if encoder.kind == "speech":
            # Of pretraining: layers left out at random, and masks, which are longer than short utterances
            self.encoder.layerdrop = self.encoder.config.layerdrop = 0.0
            self.encoder.config.apply_spec_augment = False
            if hasattr(self.encoder, "feature_extractor"):
                self.encoder.feature_extractor._freeze_parameters()  # HubertModel lacks freeze_feature_encoder

    def embed(self, inputs: Sequence[Tensor | np.ndarray]) -> Tensor:
        """Embeddings of B texts (tokens, int64) or waves (float32), shape = (B, dim).

        Waves go through the encoder one by one: padding would change the group norm of its first convolution.
        """
        if self.source.kind == "speech":
            waves = [np.pad(wave, (0, max(0, self.source.min_samples - len(wave)))) for wave in inputs]
            return torch.stack([self.source._hidden_states(wave)[-1].mean(dim=0) for wave in waves])
        tokens = pad_sequence([*inputs], True, self.source.tokenizer.pad_id)
        mask = pad_sequence([torch.ones_like(ids) for ids in inputs], True)
        hidden = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        return (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def predict(self, embeddings: Tensor) -> Outputs:
        """Log-probabilities of the emotions, arousal and valence of embeddings, in float32 as in `model.MATE`."""
        with torch.autocast(embeddings.device.type, enabled=False):
            emotion = torch.log_softmax(self.emotion(embeddings.float()), dim=1)
            low, high = AFFECT_RANGE
            affect = (high - low) * torch.sigmoid(self.affect(embeddings.float())) + low
        return emotion, affect[:, :1], affect[:, 1:]

    def forward(self, inputs: Sequence[Tensor | np.ndarray], labels: Tensor) -> dict[str, Tensor]:
        """The loss of a batch; labels are the raters' shares, arousal and valence, shape = (B, 9)."""
        loss = self.loss(self.predict(self.embed(inputs)), labels.split([N_EMOTIONS, 1, 1], dim=1))
        if not loss.isfinite():
            raise engine.NonFinite("the loss is not finite")
        return {"loss": loss}


def finetune(options: argparse.Namespace) -> Path:
    """Fine-tune the encoder that `options` of `get_args_parser` name, test it, and return its folder.

    Raises
    ------
    InputError : the encoder, the corpus or the folder cannot be used, or training failed
    """
    options = resolve_sessions(options)
    folder = options.save_path.absolute() / folder_name(options)
    arguments = training_arguments(options, folder)  # joins the processes of the run
    processes = PartialState()
    with contextlib.ExitStack() as stack:
        # 1. The encoder, the corpus and their record
        name = options.text_model or options.audio_model
        encoder = load_text_encoder(name) if options.text_model else load_speech_encoder(name)
        table = read_utterances(options.data_path, options.SorL)
        sessions = {"train": training_sessions(table["session"], options.test_split, options.valid_split)}
        sessions |= {"valid": options.valid_split or [], "test": options.test_split}
        data = corpus_facts(options.data_path) | described(encoder.kind, encoder.description)
        data |= {f"{encoder.kind}_model": encoder_name(name), "role": options.SorL}
        data |= {"table": digest_of(options.data_path, f"df_{options.SorL}.csv")}
        data |= {f"{part}_sessions": format_sessions(of_part) for part, of_part in sessions.items()}
        check_learnt(data, options.test_split)
        environment = devices.environment(arguments.device) | {"transformers": transformers.__version__}
        environment["training_precision"] = "bfloat16" if arguments.bf16 else "float32"
        values = {name: value for name, value in vars(options).items() if name not in OF_CALL}
        values |= {"text_model": data.get("text_model"), "audio_model": data.get("speech_model")}
        record = {"options": values, "data": data, "environment": environment}
        checkpoint = devices.on_main_process(processes, lambda: begin(folder, record, options.resume, stack))

        # 2. The utterances of each split, and the model
        inputs = read_inputs(encoder, table, options)
        tables = {part: table[table["session"].isin(sessions[part]) & table["id"].isin(inputs)] for part in sessions}
        if empty := [part for part in sessions if sessions[part] and tables[part].empty]:
            raise InputError(
                f"{options.data_path}: no {empty[0]} utterance has a wav that can be used; see --audio_path"
            )
        train_set, valid_set = (Utterances(tables[part], inputs, encoder) for part in ("train", "valid"))
        affect = options.affect_loss if tables["train"]["arousal"].notna().all() else "none"
        torch.manual_seed(options.seed)
        model = EmotionModel(encoder, make_loss("normal", options.lam, 0.0, np.zeros(N_EMOTIONS), affect=affect))
        if options.gradient_checkpointing:
            model.encoder.gradient_checkpointing_enable()
        if processes.is_main_process:
            record["left_out"] = len(table) - len(inputs)
            counts = (f"{part} {format_sessions(sessions[part])} ({len(tables[part]):,})" for part in tables)
            print(f"sessions: {', '.join(counts)}; without a wav that can be used: {record['left_out']}")
            print(f"device: {environment['device']}, {environment['training_precision']}\nfolder: {folder}", flush=True)

        # 3. Training, and the test
        with one_line_errors(folder):
            stopping = [transformers.EarlyStoppingCallback(options.patience)] if options.patience else None
            trainer = transformers.Trainer(model, arguments, collate, train_set, valid_set, callbacks=stopping)
            trainer.train(checkpoint)
            record["history"] = [row for row in trainer.state.log_history if {"loss", "eval_loss"} & row.keys()]
            devices.on_main_process(processes, lambda: finish(folder, record, model, tables["test"], inputs))
    return folder


def folder_name(options: argparse.Namespace) -> str:
    """The name by which preprocessing.py and main.py will know the encoder."""
    name = encoder_name(options.text_model or options.audio_model).replace("/", "-")
    valid = f"_valid{format_sessions(options.valid_split)}" if options.valid_split else ""
    return f"{name}_{options.SorL}_test{format_sessions(options.test_split)}{valid}_seed{options.seed}"


def choose_device(gpu_id: str | None) -> torch.device:
    """The device of `--gpu_id`, of several processes one each; Trainer, which takes all GPUs, sees only this one."""
    if gpu_id in ("cpu", "mps"):
        return devices.pick_device(gpu_id)
    if devices.n_processes() > 1:
        return devices.pick_device(os.environ["LOCAL_RANK"] if torch.cuda.is_available() else None)
    n, seen = int(gpu_id or 0), os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = str(n) if seen is None else ",".join(seen.split(",")[n : n + 1])
    return devices.pick_device(None if gpu_id is None else "0")


def training_arguments(options: argparse.Namespace, folder: Path) -> transformers.TrainingArguments:
    """The settings of Trainer; making them joins the processes of the run."""
    device, tracker = choose_device(options.gpu_id), options.report_to
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise InputError(f"--report_to {tracker}: not installed; pip install {tracker}, or give none")
    if tracker == "tensorboard":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder)
    precision = "fp32" if options.precision == "auto" and device.type == "cpu" else options.precision
    settings = {"num_train_epochs": options.epochs, "learning_rate": options.lr, "weight_decay": 0.01}
    settings |= {"warmup_steps": 0.1, "optim": "adamw_torch", "seed": options.seed}  # a tenth of the steps
    settings |= {f"per_device_{part}_batch_size": options.batch_size for part in ("train", "eval")}
    settings |= {"gradient_accumulation_steps": options.accumulate, "use_cpu": device.type == "cpu"}
    settings |= {"bf16": engine.training_dtype(precision, device) == torch.bfloat16}
    settings |= {"dataloader_num_workers": 2 if options.audio_model and device.type == "cuda" else 0}
    settings |= {"save_strategy": "epoch", "logging_strategy": "epoch", "save_total_limit": 1}  # and the best one
    if options.valid_split:
        settings |= {"eval_strategy": "epoch", "load_best_model_at_end": True}
    settings |= {"restore_callback_states_from_checkpoint": True}  # of --patience
    settings |= {"prediction_loss_only": True, "label_names": ["labels"], "remove_unused_columns": False}
    settings |= {"disable_tqdm": False, "report_to": tracker, "run_name": folder.name}
    arguments = transformers.TrainingArguments(str(folder / CHECKPOINTS), **settings)
    devices.set_up_process()  # after accelerate, which may turn TF32 on
    return arguments


def begin(folder: Path, record: Mapping[str, Any], resume: bool, stack: contextlib.ExitStack) -> str | None:
    """Make the folder with its record, locked until `stack` closes; or the checkpoint that training goes on from."""
    stored = read_json(folder / RECORD) if (folder / RECORD).exists() else None
    if stored and "figures" in stored:
        raise InputError(f"{folder}: finished already, and not overwritten; rename it, or give another --save_path")
    if stored and not resume:
        raise InputError(f"{folder}: unfinished; go on with --resume, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    stack.callback(lambda: any(folder.iterdir()) or folder.rmdir())  # the disk was full
    stack.enter_context(lock_folder(folder, "fine-tuning"))
    if stored is None:
        write_json(folder / RECORD, dict(record))
        return None
    for part in ("options", "data"):
        for name, value in record[part].items():
            if (before := stored[part].get(name)) != value:
                raise InputError(f"--resume: {folder} was begun with another {name}, {before}; now it is {value}")
    for path in sorted(folder.glob(f"{CHECKPOINTS}/*-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        with contextlib.suppress(InputError):  # the last file of a checkpoint; a kill may have left a part of one
            return read_json(path / "trainer_state.json") and str(path)
    return None


def read_inputs(encoder: TextEncoder | SpeechEncoder, table: pd.DataFrame, options: argparse.Namespace) -> Inputs:
    """The tokens of each text, or the path of each wav that can be used."""
    if encoder.kind == "text":
        tokens = {text: encoder.tokenizer.encode(text) for text in table["text"].unique()}
        encoder._check_pieces(table["text"], tokens, show=True)
        return {segment: torch.tensor(tokens[text]) for segment, text in zip(table["id"], table["text"], strict=True)}
    wavs = find_wavs(options.data_path, options.audio_path)
    paths = [(segment, wavs[segment]) for segment in table["id"] if segment in wavs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waves = pool.map(lambda found: try_to_read(found[1], encoder.rate), paths)
        looked = tqdm(zip(paths, waves, strict=True), "looking at wavs", len(paths), unit="wav")
        return dict(found for found, wave in looked if not isinstance(wave, InputError))


@torch.inference_mode()
def test(model: EmotionModel, table: pd.DataFrame, inputs: Inputs) -> pd.DataFrame:
    """Rows of predictions.csv, of the embeddings that preprocessing.py computes."""
    encoder = model.eval().source
    if encoder.kind == "text":
        embeddings = torch.from_numpy(encoder.embed(table["text"].tolist()))
    else:
        paths = tqdm([inputs[segment] for segment in table["id"]], "testing", unit="utterance")
        embeddings = torch.stack([encoder.embed(read_wav(path, encoder.rate))[-1] for path in paths])
    arrays = engine.to_arrays(model.predict(embeddings.to(model.emotion.weight.device)))
    return predictions_table(table, range(len(table)), arrays)


def finish(folder: Path, record: dict[str, Any], model: EmotionModel, table: pd.DataFrame, inputs: Inputs) -> None:
    """Test the model, write the encoder, its card and at last its record, and remove the checkpoints."""
    rows = test(model, table, inputs)
    found, bounds = metric.figures(rows), metric.bootstrap([metric.dialogue_sums(rows)[:, None]])[["low", "high"]]
    record["figures"] = {name: found[name] for name in ("n", "n_single_label")} | metric.rounded(found, FIGURES)
    record["intervals"] = {name: metric.bounds_of(bounds.loc[name]) for name in metric.WHOLE_FIGURES}
    write_predictions(folder / "predictions.csv", rows)
    write_encoder(folder, record, model.source)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    write_json(folder / RECORD, record)
    print(f"single utterances of the test sessions, {found['n']}, {found['n_single_label']} of them with one label:")
    for name in metric.WHOLE_FIGURES:
        print(f"{metric.HEADINGS[name]:<12} {found[name]:.3f}  {format_interval(*bounds.loc[name])}")
    print(f"encoder: {folder}")


def write_encoder(folder: Path, record: Mapping[str, Any], encoder: TextEncoder | SpeechEncoder) -> None:
    """Write the encoder as the hub has it: configuration, weights, tokenizer or feature extractor, and a card."""
    data, kind, options, config = record["data"], encoder.kind, record["options"], encoder.model.config
    sessions = parse_sessions(data["train_sessions"]) + (options["valid_split"] or [])
    setattr(config, LEARNT, add_learnt(data.get(f"{kind}_learnt"), data, sessions))
    if getattr(config, "random_weights", False):
        config.random_weights = False  # now they are trained
    parent, weights = encoder.description["name"], encoder.model.state_dict()
    if kind == "speech":
        encoder.extractor.save_pretrained(folder)
        weights = {("encoder." if encoder.is_whisper else "") + name: weight for name, weight in weights.items()}
    elif vocabulary := _find_vocabulary(parent, encoder.description["revision"] or "main"):
        for path in (vocabulary, vocabulary.with_name("tokenizer_config.json")):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    else:
        revision = encoder.description["revision"] or "main"
        transformers.AutoTokenizer.from_pretrained(parent, revision=revision).save_pretrained(folder)
    encoder.model.save_pretrained(folder, state_dict=weights)
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # safetensors: for its owner alone
    template = (Path(__file__).parent / "training" / "encoder_card.md").read_text("utf-8")
    about = {"name": folder.name, "parent": data[f"{kind}_model"], "kind": kind}
    text = (
        jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(record | about | {"learnt": learnt_text(getattr(config, LEARNT))})
    )
    head = {"language": "ko", "base_model": about["parent"], "library_name": "transformers"}
    head |= {"license": "other", "license_name": "of-corpus-and-parent", "tags": ["emotion-recognition"]}
    (folder / "README.md").write_text(f"---\n{ModelCardData(**head).to_yaml()}\n---\n\n{text}", "utf-8")


@contextlib.contextmanager
def one_line_errors(folder: Path) -> Iterator[None]:
    """Add to an interrupt how to resume, and report what ends training as an `InputError`."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.args = ("go on with the same command and --resume",)
        raise
    except engine.NonFinite as error:
        raise InputError(f"{error}; remove {folder} and try a smaller --lr") from error
    except (OSError, RuntimeError, MemoryError, SafetensorError) as error:
        if fault := fault_of_machine(error):
            raise InputError(f"{fault}; --resume goes on from the last epoch in {folder}") from error
        if isinstance(error, OSError | SafetensorError) or "PytorchStreamWriter" in str(error):
            raise InputError(f"{folder}: cannot be written ({first_line(error)})") from error
        raise


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description="Fine-tune a text or a speech encoder on single utterances of a corpus.")
    add = parser.add_argument
    add("--data_path", type=file_path, default=Path("data/KEMDy19"), help="pre-processed corpus (%(default)s)")
    add("--audio_path", type=file_path, help="folder of the wavs, if neither DATA_PATH/wav nor ./audio")
    add("--SorL", choices=ROLES, default="speaker", help="learn the emotion of the speaker or listener (%(default)s)")
    one = parser.add_mutually_exclusive_group(required=True).add_argument
    one("--text_model", metavar="NAME", help="text encoder: hub name or folder")
    one("--audio_model", metavar="NAME", help="speech encoder: hub name or folder")
    add("--test_split", type=parse_sessions, metavar="SESSIONS", help="sessions held out (the first fold)")
    add("--valid_split", type=parse_sessions, metavar="SESSIONS", help="sessions that choose the best epoch (none)")
    add("--epochs", type=number(int, 1), default=5, help="passes over the utterances (%(default)s)")
    add("--lr", type=number(float, 0), default=2e-5, help="learning rate, after a rise and before a fall (%(default)s)")
    add("--batch_size", type=number(int, 1), default=16, help="utterances at once, of each process (%(default)s)")
    add("--accumulate", type=number(int, 1), default=1, help="batches in a step (%(default)s)")
    add("--gradient_checkpointing", action="store_true", help="take less memory, and a third more time (off)")
    add("--precision", choices=PRECISIONS, default="auto", help="auto: bf16 on a GPU that is fast in it (%(default)s)")
    add("--patience", type=number(int, 1), help="stop after so many epochs that are no better on --valid_split (none)")
    add("--lam", type=number(float, 0, 1), default=0.66, help="weight of the emotion's loss (%(default)s)")
    affect = "loss of arousal and valence (%(default)s)"
    add("--affect_loss", choices=("mse", "ccc", "mse_ccc"), default="mse", help=affect)
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, help="random seed (%(default)s)")
    add("--save_path", type=file_path, default=Path("exp"), help="folder of the encoder's folder (%(default)s)")
    add("--resume", action="store_true", help="go on with an unfinished folder of the same options (off)")
    add("--report_to", choices=TRACKERS, default="none", help="experiment tracker (%(default)s)")
    add("--gpu_id", type=gpu, help="a GPU's number, cpu or mps (the first CUDA GPU, or the CPU)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = get_args_parser()
    options = parser.parse_args(argv)
    if options.patience and not options.valid_split:
        parser.error("--patience needs --valid_split")
    return run_command(lambda: finetune(options), quiet=int(os.environ.get("RANK", 0)) > 0)


if __name__ == "__main__":
    sys.exit(main())
