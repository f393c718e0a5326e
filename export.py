"""Export a trained run in the layout of the Hugging Face hub: config.json, model.safetensors and a model card.

python export.py exp/<run> OUT

MATE.from_pretrained("OUT or a name on the hub") loads it, and .push_to_hub("user/model") uploads it:

from export import MATE
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from training.arguments import ArgumentParser, file_path
from training.devices import set_up_process
from utils import InputError, find_run, run_command


def __getattr__(name: str) -> Any:
    """`from export import MATE`, without torch where only --help is asked for."""
    if name != "MATE":
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    from prediction.hub import MATE

    return MATE


def export(run: str, out: Path, save_path: Path = Path("exp")) -> Path:
    """Write the folder `out`, whole or not at all.

    Raises
    ------
    InputError : the run cannot be loaded, or `out` exists
    """
    from prediction.hub import MATE, WEIGHTS, architecture, describe_run
    from training.folders import load_run

    if out.exists():
        raise InputError(f"{out}: exists already and is not overwritten; give a new folder")
    folder = find_run(save_path, run)
    trained = load_run(folder)
    about = describe_run(folder, trained)
    if about["unfinished"]:
        warnings.warn(f"{folder}: {about['unfinished']}", stacklevel=2)
    model = MATE(**architecture(trained), about=about)
    model.load_state_dict(trained.model.state_dict())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as parent:
            made = Path(parent, "model")
            model.save_pretrained(made)
            shutil.copymode(made / "config.json", made / WEIGHTS)  # safetensors gives them to their owner alone
            made.rename(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from error
    return out


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Export a trained run for the Hugging Face hub, with a model card.", allow_abbrev=False
    )
    parser.add_argument("run", metavar="RUN", help="experiment folder: in SAVE_PATH, or a path")
    parser.add_argument("out", metavar="OUT", type=file_path, help="new folder")
    parser.add_argument("--save_path", type=file_path, default=Path("exp"), help="folder of the runs (%(default)s)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = get_args_parser().parse_args(argv)
    set_up_process()
    return run_command(lambda: print(f"exported to {export(args.run, args.out, args.save_path)}"))


if __name__ == "__main__":
    sys.exit(main())
