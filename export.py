"""Export a trained run in the format of the Hugging Face Hub: config.json, model.safetensors and a model card.

`from export import MATE`: `MATE.from_pretrained("OUT or Hub name")` loads it, `.push_to_hub("user/model")` uploads it.
"""

from __future__ import annotations

import training  # noqa: F401, isort: skip (must be first, see training/__init__.py)

import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin
from safetensors import SafetensorError

import metric
import model
from corpora.sessions import format_sessions
from reports.result import COMPARED, verdict_text
from training.devices import set_up_process
from training.options import ArgumentParser, file_path, names_of
from training.record import TrainedRun, caveats, load_run, newest_run, unfinished
from utils import InputError, read_json, run_command


class MATE(
    model.MATE,
    PyTorchModelHubMixin,
    library_name="mate-kemdy19",
    language=["ko"],
    pipeline_tag="audio-classification",
    license="other",
    license_name="etri-corpus",
    tags=["emotion-recognition", "speech-emotion-recognition", "multimodal"],
):
    """`model.MATE` with `from_pretrained`, `save_pretrained` and `push_to_hub`. config.json holds its `parameters`."""

    def __init__(self, options: dict[str, Any], data: dict[str, str], card: dict[str, Any]) -> None:
        super().__init__(**self.architecture(options, data))
        self.about = {"options": options, "data": data, "card": card}
        self.eval()  # from_pretrained of huggingface_hub 1 leaves it in training mode

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The card, made from the parameters only, so that a loaded model has the same card when it is pushed."""
        template = Path(__file__).parent / "prediction" / "model_card.md"
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
        text = environment.from_string(template.read_text("utf-8")).render(**self.about, compared=COMPARED)
        about = self._hub_mixin_info.model_card_data.to_dict()
        if self.about["data"].get("synthetic") == "yes":  # made by this program, under the MIT licence
            about = {name: value for name, value in about.items() if name != "license_name"} | {"license": "mit"}
        return ModelCard(f"---\n{ModelCardData(**about).to_yaml()}\n---\n\n{text}")


def export(run: Path, out: Path) -> Path:
    """Write the new folder `out`, atomically; `InputError` if it exists or the run cannot be loaded."""
    if out.exists():
        raise InputError(f"{out}: already exists; give a new folder")
    run = newest_run(run)
    trained = load_run(run)
    exported = MATE(**parameters(trained))
    for sentence in filter(None, [*caveats(trained.record.data), exported.about["card"]["unfinished"]]):
        warnings.warn(f"{run}: {sentence}", stacklevel=2)
    exported.load_state_dict(trained.model.state_dict())
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as parent:
        made = Path(parent, "model")
        try:
            exported.save_pretrained(made)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{out}: cannot be written ({error})") from error
        (made / "model.safetensors").chmod((made / "config.json").stat().st_mode)  # safetensors: for the owner only
        made.rename(out)
    return out


def parameters(trained: TrainedRun) -> dict[str, dict[str, Any]]:
    """`options` and `data` of a run's record, and values for its `card`, without paths of this machine."""
    options = {name: vars(trained.options)[name] for name in sorted(names_of("model", "test") - {"audio_model"})}
    data = dict(trained.record.data)
    if Path(data.get("text_model", "")).is_absolute():
        data["text_model"] = Path(data["text_model"]).name
    path, figures = trained.folder / "result.json", (*metric.FIGURES, "overall")
    result = read_json(path) if path.is_file() else {}  # the published program's lacks some figures
    card = {
        "commit": trained.record.environment.get("commit", "not recorded"),
        "test_sessions": format_sessions(trained.options.test_split),
        "train_sessions": format_sessions(trained.train_sessions),
        "unfinished": unfinished(trained),
        "temperature": trained.temperature,
        "result": {name: result[name] for name in figures} if {*figures} <= result.keys() else None,
        "one_rater": (result.get("raters") or {}).get("mean", {}),
        "verdict": " ".join(verdict_text(result).split()).removeprefix("verdict: ") if "verdict" in result else None,
    }
    return {"options": options, "data": data, "card": card}


def get_args_parser() -> ArgumentParser:
    examples, usage = ("export.py exp/latest my_model", "predict.py my_model talk.wav --transcribe"), "%(prog)s RUN OUT"
    parser = ArgumentParser(examples, description="Export a run in the format of the Hugging Face Hub.", usage=usage)
    parser.add_argument("run", metavar="RUN", type=file_path, help="run folder to export")
    parser.add_argument("out", metavar="OUT", type=file_path, help="new folder to write")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = get_args_parser().parse_args(argv)
    set_up_process()
    return run_command(lambda: print(f"exported to {export(args.run, args.out)}"))


if __name__ == "__main__":
    sys.exit(main())
