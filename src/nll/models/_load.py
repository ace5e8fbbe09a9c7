"""`nll.load`: a model by hub id, folder or nothing at all, loaded safely."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nll._errors import BadInput, BadModel, MissingExtra, first_line
from nll.models._sources import opener

if TYPE_CHECKING:
    from nll.models._engine import LocalModel
    from nll.models._protocol import LanguageModel

DTYPES = ("float32", "bfloat16", "float16", "int8", "auto")
# Measured once, on a CPU; another model may differ.
DECLARED = {
    "bfloat16": "bfloat16: |log p - float32| mean 0.036, max 0.22 nats (70 tokens, SmolLM2-135M)",
    "float16": "float16: |log p - float32| mean 0.0045, max 0.022 nats (70 tokens, SmolLM2-135M)",
}
CPU_BATCH_TOKENS = 1_024
GPU_BATCH_TOKENS = 16_384


def load(
    name: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    bos: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    batch_tokens: int | None = None,
) -> LanguageModel:
    """A causal language model: a hub id, a folder, or None for the embedded 135M model.

    device: `auto` (a GPU if there is one), or a torch device such as `cpu`, `cuda:1`.
    dtype: of the backbone (`float32`, `bfloat16`, `float16`, `auto`: as stored; `int8`: on a CPU,
    faster and smaller); the unembedding and all statistics are float32 whatever it is. How far
    log p then is from float32 stands in `provenance.declared_error`; int8 measures it at loading.
    bos: what stands before the first token: `auto` (what the tokenizer adds by itself), `none`,
    `bos` (its BOS, or its end-of-text token), or any token's string. Without one the first token
    of a text is not predicted and its values are nan.
    batch_tokens: tokens per forward pass. Results do not depend on it.

    `http://host:port/v1` (with `#NAME` where a server has several models) and `openai:NAME` are
    models behind an OpenAI-compatible server, `replay:FILE` is recorded answers, `vllm:NAME` and
    `llamacpp:FILE.gguf` run in those engines; servers and recordings need no torch.
    Any other prefix, as in `testing:bigram`, is opened by the package that claims it through the
    entry-point group `nll.models`; that one is an exact toy model for trying things out.
    Raises MissingExtra without `nll[local]`, BadModel for a model that cannot be had or trusted,
    BadInput for an impossible option.
    """
    remote = opener(str(name))
    if remote is not None:
        return remote(
            str(name), device=device, dtype=dtype, bos=bos, revision=revision,
            trust_remote_code=trust_remote_code, batch_tokens=batch_tokens,
        )  # fmt: skip
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtra(f'{package} is not installed; run: pip install "nll[local]"')
    if dtype not in DTYPES:
        raise BadInput(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if batch_tokens is not None and batch_tokens < 1:
        raise BadInput(f"batch_tokens must be at least 1, not {batch_tokens}")
    source = _source(str(name))
    if source is not None:
        return source(
            str(name), device=device, dtype=dtype, bos=bos, revision=revision,
            trust_remote_code=trust_remote_code, batch_tokens=batch_tokens,
        )  # fmt: skip
    if name is None:
        from nll.models._embedded import NAME, embedded_folder

        folder = embedded_folder(_say)
        if dtype in ("float32", "auto") and _device(device) == "cpu":
            from nll.models._light import open_light

            light, tokenizer = open_light(folder)
            return from_transformers(
                light, tokenizer, name=NAME, bos=bos, batch_tokens=batch_tokens
            )
        return _open(folder, NAME, device, dtype, bos, None, False, batch_tokens)
    _refuse_unsafe(str(name), trust_remote_code)
    return _open(name, str(name), device, dtype, bos, revision, trust_remote_code, batch_tokens)


def _source(name: str) -> Callable[..., LanguageModel] | None:
    """Who opens names with this prefix, such as `testing:`."""
    prefix, colon, _ = name.partition(":")
    if not colon:
        return None
    found = [e for e in entry_points(group="nll.models") if e.name == prefix]
    return found[0].load() if found else None


def _say(line: str) -> None:
    import sys

    sys.stderr.write(f"nll: {line}\n")


def _refuse_unsafe(name: str, trust_remote_code: bool) -> None:
    """A local folder is looked at before anything in it is opened."""
    path = Path(name)
    if path.is_file():
        raise BadModel(f"{name} is a file; name the folder with the config.json and the weights")
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if not path.is_dir():
        if looks_local:
            raise BadModel(f"there is no folder {name}")
        return
    if not (path / "config.json").is_file():
        raise BadModel(f"{name} holds no config.json, so it is not a model folder")
    if not any(path.glob("*.safetensors")):
        raise BadModel(
            f"{name} holds no .safetensors weights; nll never opens pickled ones (.bin, .pt): "
            "convert them with model.save_pretrained"
        )
    import json

    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if config.get("auto_map") and not trust_remote_code:
        raise BadModel(
            f"{name} wants to run code of its own; read it, then pass trust_remote_code "
            "(--trust-remote-code)"
        )


def _open(
    name: str | Path, shown: str, device: str, dtype: str, bos: str, revision: str | None,
    trust_remote_code: bool, batch_tokens: int | None,
) -> LanguageModel:  # fmt: skip
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nll.models._embedded import quiet

    common: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    try:
        place = torch.device(_device(device))
    except RuntimeError as error:
        raise BadInput(f"unknown device {device!r}: {first_line(error)}") from None
    whole = dtype == "int8"
    if whole and place.type != "cpu":
        raise BadInput("dtype int8 is for the CPU; on a GPU use bfloat16 or float16")
    if whole:
        dtype = "float32"
    try:
        torch.zeros(1, device=place).item()
    # What torch raises of a device that is not here differs with its kind and build.
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise BadInput(f"device {device!r} cannot be used here: {first_line(error)}") from None
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(name, **common)
            model = AutoModelForCausalLM.from_pretrained(
                name, dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                use_safetensors=True, **common,
            ).to(place)  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise BadModel(f"cannot load the model {shown}: {first_line(error)}") from None
    found = from_transformers(
        model, tokenizer, name=shown, bos=bos, batch_tokens=batch_tokens,
        revision=getattr(model.config, "_commit_hash", None) or revision,
    )  # fmt: skip
    if not whole:
        return found
    del model  # nothing but the network may hold the float32 layers
    from nll.models._quantize import quantized

    return quantized(found)


def from_transformers(
    model: Any,
    tokenizer: Any,
    *,
    name: str = "",
    revision: str | None = None,
    bos: str = "auto",
    batch_tokens: int | None = None,
    pack: bool = True,
) -> LocalModel:
    """A transformers model and tokenizer that you already hold, as an nll model.

    pack: let several texts share a row and a prefix where that is proved exact for this model.
    Raises BadModel when its numbers depend on the batch or its tokenizer has no offsets.
    """
    from nll import __version__
    from nll.models._encode import make_tokenizer
    from nll.models._engine import LocalModel
    from nll.models._network import Network, fingerprint
    from nll.trace import Provenance

    network = Network(model, name or str(model.config.name_or_path), pack=pack)
    read = make_tokenizer(tokenizer, bos)
    kind = str(network.dtype).removeprefix("torch.")
    provenance = Provenance(
        model=network.name,
        revision=revision,
        weights=fingerprint(model),
        tokenizer=read.digest,
        dtype=kind,
        declared_error=DECLARED.get(kind),
        backend="transformers",
        vocab_size=network.vocab_size,
        bos=read.bos,
        library=__version__,
    )
    if batch_tokens is None:
        batch_tokens = CPU_BATCH_TOKENS if network.device.type == "cpu" else GPU_BATCH_TOKENS
    return LocalModel(network, read, provenance, batch_tokens=batch_tokens)


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
