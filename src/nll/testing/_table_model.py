"""An exact model: the next character depends on the last one, by a table that is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nll._errors import BadInput, BadModel
from nll.models import LanguageModel, from_transformers
from nll.trace import Array

ALPHABET = "\x03\x02 abcdefghijklmnopqrstuvwxyz.,?!'\n"
UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def bigram_table(alphabet: str = ALPHABET, seed: int = 0) -> Array:
    """(V, V) log-probabilities, row = last character, column = next; V = len(alphabet) + 1.

    The last row and column are the unknown character's.
    """
    draw = np.random.default_rng(seed)
    scores = draw.normal(scale=2.0, size=(len(alphabet) + 1,) * 2)
    table: Array = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return table


def table_model(
    table: Array | None = None,
    alphabet: str = ALPHABET,
    *,
    bos: str = "none",
    batch_tokens: int | None = None,
    context: int = 4_096,
    pack: bool = True,
) -> LanguageModel:
    r"""A language model over characters whose every log-probability is an entry of `table`.

    Token i is alphabet[i]; anything else is the unknown token, the last one. The first character of
    the alphabet ends a text (EOS), the second may stand before it (BOS, `bos="bos"`).
    It goes through the same engine as a real model, so it tests every path against the truth:

    >>> import nll.testing, numpy as np
    >>> table = nll.testing.bigram_table()
    >>> trace = next(nll.testing.table_model(table).trace(["ab"]))
    >>> i = nll.testing.ALPHABET.index
    >>> bool(np.isclose(trace.logp[1], table[i("a"), i("b")], atol=1e-5))
    True

    table: (V, V) log-probabilities, V = len(alphabet) + 1; default `bigram_table(alphabet)`.
    Raises BadInput when the table does not fit the alphabet.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    table = bigram_table(alphabet) if table is None else np.asarray(table)
    size = len(alphabet) + 1
    if table.shape != (size, size):
        raise BadInput(f"the table must be {size} x {size} for this alphabet, not {table.shape}")
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=1, num_hidden_layers=0,
        num_attention_heads=1, num_key_value_heads=1, head_dim=2, rms_norm_eps=0.0,
        tie_word_embeddings=False, max_position_embeddings=context,
        bos_token_id=1, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    # One-hot states: the norm makes sqrt(V) of a row of length 1, and its weight undoes that.
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.model.norm.weight.fill_(size**-0.5)
        model.lm_head.weight.copy_(torch.from_numpy(np.ascontiguousarray(table.T)).float())
    return from_transformers(
        model,
        character_tokenizer(alphabet),
        name="testing:bigram",
        bos="none" if bos == "auto" else bos,
        batch_tokens=batch_tokens,
        pack=pack,
    )


def open_model(name: str, **options: Any) -> LanguageModel:
    """`testing:bigram`, for `nll.load` and the command line; raises BadModel for another name."""
    if name != "testing:bigram":
        raise BadModel(f"the only testing model is testing:bigram, not {name}")
    return table_model(bos=options["bos"], batch_tokens=options["batch_tokens"])


def character_tokenizer(alphabet: str = ALPHABET) -> Any:
    """One token per character: the first is EOS, the second BOS, the last one all unknown ones."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {c: i for i, c in enumerate([*alphabet, UNKNOWN])}
    if len(vocab) != len(alphabet) + 1:
        raise BadInput("the alphabet repeats a character")
    inner = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=alphabet[0], bos_token=alphabet[1], unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def characters(text: Sequence[str], alphabet: str = ALPHABET) -> list[int]:
    """Token ids of a text under `character_tokenizer`."""
    return [alphabet.index(c) if c in alphabet else len(alphabet) for c in text]
