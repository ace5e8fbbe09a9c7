"""Models are loaded safely, or refused in one line (RELIABILITY checks 15 and 21)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nll import BadInput, BadModel, MissingExtra
from nll.models import LanguageModel, from_transformers, load
from nll.models import _embedded as embedded
from nll.testing import character_tokenizer, table_model

from .tiny import hf_model, tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    hf_model("llama").save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


def test_a_folder_gives_the_same_numbers_as_the_model_itself(checkpoint: Path) -> None:
    model = load(checkpoint)
    assert isinstance(model, LanguageModel)
    ours, again = next(model.trace(["some text"])), next(tiny("llama").trace(["some text"]))
    np.testing.assert_array_equal(ours.logp, again.logp)
    assert ours.provenance.weights == again.provenance.weights


def test_dtype_is_what_was_asked_for(checkpoint: Path) -> None:
    trace = next(load(checkpoint, dtype="bfloat16").trace(["some text"]))
    assert trace.provenance.dtype == "bfloat16"
    assert trace.logp.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("/no/such/folder", {}, "there is no folder"),
        (None, {"dtype": "int3"}, "dtype must be one of"),
        (None, {"batch_tokens": 0}, "at least 1"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(name, options, match) -> None:
    with pytest.raises((BadModel, BadInput), match=match) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)


def test_an_unknown_device_is_one_line(checkpoint: Path) -> None:
    with pytest.raises(BadInput, match="unknown device 'abacus'"):
        load(checkpoint, device="abacus")


@pytest.mark.parametrize("device", ["cuda:63", "meta"])
def test_a_device_that_is_not_here_is_one_line(checkpoint: Path, device: str) -> None:
    with pytest.raises(BadInput, match=f"device '{device}' cannot be used here") as caught:
        load(checkpoint, device=device)
    assert "\n" not in str(caught.value)


def test_an_unknown_hub_model_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadModel, match="cannot load the model nobody/nothing-at-all") as caught:
        load("nobody/nothing-at-all")
    assert "\n" not in str(caught.value)


def test_check_21_pickled_weights_are_refused_unopened(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    payload = f"cbuiltins\nopen\n(V{trap}\nVw\ntR."
    (tmp_path / "pytorch_model.bin").write_text(payload)
    with pytest.raises(BadModel, match="never opens pickled ones"):
        load(tmp_path)
    assert not trap.exists()


def test_check_21_code_in_a_model_folder_is_refused_unrun(checkpoint: Path, tmp_path: Path) -> None:
    folder, trap = tmp_path / "remote", tmp_path / "sprung"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(trap)!r}, 'w')\n")
    with pytest.raises(BadModel, match="wants to run code of its own"):
        load(folder)
    assert not trap.exists()


def test_a_folder_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(BadModel, match="is a file"):
        load(tmp_path / "model.gguf")


def test_check_15_identity_changes_with_everything_that_decides_numbers(checkpoint: Path) -> None:
    base = load(checkpoint).identity
    assert base == load(checkpoint).identity
    assert load(checkpoint, dtype="bfloat16").identity != base
    assert load(checkpoint, bos="bos").identity != base
    changed = hf_model("llama")
    weight = changed.model.norm.weight
    before = weight[0].item()
    with torch.no_grad():
        weight[0] = before + 1e-3
    try:
        other = from_transformers(changed, character_tokenizer(), name=base["model"]).identity
    finally:
        with torch.no_grad():
            weight[0] = before
    assert other["weights"] != base["weights"]
    assert table_model(np.log(np.full((5, 5), 0.2)), "\x03\x02ab").identity != base


def test_the_bos_rule_is_a_name_or_a_token(checkpoint: Path) -> None:
    assert load(checkpoint).provenance.bos is None
    assert load(checkpoint, bos="bos").provenance.bos == "\x02"
    assert load(checkpoint, bos="z").provenance.bos == "z"
    with pytest.raises(BadInput, match="bos must be"):
        load(checkpoint, bos="no such token")


def test_a_missing_embedded_model_names_the_remedy(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("NLL_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "find_gguf", lambda: None)
    with pytest.raises(MissingExtra, match="nll model install"):
        load()


def test_a_wrong_embedded_file_is_refused(monkeypatch, tmp_path) -> None:
    fake = tmp_path / embedded.GGUF
    fake.write_bytes(b"GGUF but not the one")
    monkeypatch.setenv("NLL_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "find_gguf", lambda: fake)
    with pytest.raises(BadModel, match="is not the file that"):
        load()
    assert not embedded.converted_folder().exists()


def test_loading_without_torch_names_the_extra() -> None:
    code = (
        "import importlib.util as u, nll\n"
        "from nll.models import _load\n"
        "_load.find_spec = lambda name: None\n"
        "try: nll.load()\n"
        "except nll.MissingExtra as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'torch is not installed; run: pip install "nll[local]"'
