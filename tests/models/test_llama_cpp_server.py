"""llama-cpp-python's own server, with the file that the embedded model was made from."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import nll
from nll.models import find_gguf, from_openai

pytestmark = [pytest.mark.model, pytest.mark.slow]
TEXTS = ["The capital of France is Paris.", ("Once upon a", " time there was a fox.")]


@pytest.fixture(scope="module")
def gguf() -> Path:
    pytest.importorskip("llama_cpp")
    path = find_gguf()
    assert path is not None
    return path


@pytest.fixture(scope="module")
def url(gguf: Path) -> Iterator[str]:
    pytest.importorskip("llama_cpp.server.app")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), "--n_ctx", "512"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--logits_all", "true"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(240):
                assert process.poll() is None, "the server ended"
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def test_check_10_answers_have_the_numbers_of_the_same_file_in_this_process(
    url: str, gguf: Path
) -> None:
    served, here = from_openai(url), nll.load(f"llamacpp:{gguf}", bos="none")
    prompt = "The capital of France is"
    with pytest.warns(UserWarning, match="likeliest token"):
        (found,) = served.generate([prompt], max_new_tokens=8)
    (again,) = here.trace([(prompt, found[0].text)])
    np.testing.assert_allclose(found[0].logp[0], again.completion.logp[0], atol=1e-4)
    # llama.cpp rounds activations otherwise when it reads a text whole than token by token.
    np.testing.assert_allclose(found[0].logp, again.completion.logp, atol=0.2)
    for row in found[0].top_logp:
        assert (np.diff(row[np.isfinite(row)]) <= 0).all()


def test_check_19_texts_that_it_gives_one_token_late_are_refused(url: str) -> None:
    """It keeps no BOS for this model, and then tells every token of an echo one row late."""
    with pytest.raises(nll.BadModel, match="late"):
        list(from_openai(url).trace(TEXTS))


def test_check_10_its_answers_are_near_those_of_the_float_weights(gguf: Path) -> None:
    prompt = "The capital of France is"
    ours, theirs = nll.load(), nll.load(f"llamacpp:{gguf}", bos="none")
    (found,) = theirs.generate([prompt], max_new_tokens=8, n=2, temperature=1.0, greedy=True)
    for trace in found:
        (again,) = ours.trace([(prompt, trace.completion.text)])
        n = len(again.completion.ids)
        apart = np.abs(trace.completion.logp[:n] - again.completion.logp).mean()
        assert apart < 0.3, "rounded weights and activations; one token late is several nats"
