"""Options that several commands take, written once: a group of them becomes one argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from nll.cli import _options as o
from nll.cli._terminal import say

if TYPE_CHECKING:
    from nll.runs import Ask, Cluster, Columns, GatherOptions, ModelOptions, Outcome

Command = Callable[..., Any]


def takes(**groups: Callable[..., Any]) -> Callable[[Command], Command]:
    """Let the command line offer the options of each group in the place of the parameter of that
    name, which is given what the group's function makes of them.

    Example: @takes(columns=columns) on `def score(inputs: Inputs, columns: Any): ...`
    """

    def attach(command: Command) -> Command:
        parameters: dict[str, inspect.Parameter] = {}
        for own in _parameters(command):
            for p in _parameters(groups[own.name]) if own.name in groups else [own]:
                parameters[p.name] = p.replace(kind=p.KEYWORD_ONLY)

        @functools.wraps(command)
        def run(**given: Any) -> Any:
            packed = {
                name: group(**{p.name: given.pop(p.name) for p in _parameters(group)})
                for name, group in groups.items()
            }
            return command(**given, **packed)

        ordered = sorted(parameters.values(), key=lambda p: p.default is not p.empty)
        run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in ordered}
        return run

    return attach


def without(group: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """The group without some of its options, which keep their defaults."""

    @functools.wraps(group)
    def fewer(**given: Any) -> Any:
        return group(**given)

    kept = [p for p in _parameters(group) if p.name not in names]
    fewer.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined]
    fewer.__annotations__ = {p.name: p.annotation for p in kept}
    return fewer


@functools.cache
def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """Its parameters with their annotations as objects."""
    hints = get_type_hints(function, localns=_NAMES, include_extras=True)
    found = inspect.signature(function).parameters.values()
    return tuple(p.replace(annotation=hints[p.name]) for p in found)


# What annotations name but the command line must not import at its start.
_NAMES = dict.fromkeys(
    ("Ask", "Cluster", "Columns", "GatherOptions", "ModelOptions", "Outcome"), Any
)


def columns(
    lines: o.Lines = False,
    text_column: o.TextColumn = None,
    prompt_column: o.PromptColumn = None,
    completion_column: o.CompletionColumn = None,
    id_column: o.IdColumn = None,
) -> Columns:
    """Where the texts stand."""
    from nll.runs import Columns

    return Columns(text_column, prompt_column, completion_column, id_column, lines)


def model_options(
    model: o.Model = None,
    reference: o.Reference = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    dtype: o.Dtype = "float32",
    device: o.Device = "auto",
    bos: o.Bos = "auto",
    stride: o.Stride = None,
    top_k: o.TopK = None,
    batch_tokens: o.BatchTokens = None,
) -> ModelOptions:
    """Which model, and how to run it."""
    from nll.runs import ModelOptions

    return ModelOptions(
        model, reference, revision, trust_remote_code, dtype, device, bos, stride, top_k,
        batch_tokens,
    )  # fmt: skip


def gather_options(
    n_samples: o.NSamples = 10,
    temperature: o.Temperature = 1.0,
    max_new_tokens: o.MaxNewTokens = 64,
    seed: o.Seed = 0,
    perturb: o.Perturb = None,
    neighbours: o.Neighbours = None,
    copies: o.Copies = 10,
) -> GatherOptions:
    """How to obtain what scores take beside the text's own trace."""
    from nll.runs import GatherOptions

    return GatherOptions(n_samples, temperature, max_new_tokens, seed, perturb, neighbours, copies)


def sampling_options(
    n_samples: o.NSamplesOrNone = 0,
    temperature: o.Temperature = 1.0,
    max_new_tokens: o.MaxNewTokens = 64,
    seed: o.Seed = 0,
) -> GatherOptions:
    """How answers are generated, and how many are drawn beside the greedy one."""
    from nll.runs import GatherOptions

    return GatherOptions(n_samples, temperature, max_new_tokens, seed)


def perturb_options(
    perturb: o.Perturb = None, copies: o.Copies = 10, seed: o.Seed = 0
) -> GatherOptions:
    """How texts are perturbed."""
    from nll.runs import GatherOptions

    return GatherOptions(0, seed=seed, perturb=perturb, copies=copies)


def neighbour_options(
    neighbours: o.Neighbours = None, copies: o.Copies = 10, seed: o.Seed = 0
) -> GatherOptions:
    """How neighbours of texts are made."""
    from nll.runs import GatherOptions

    return GatherOptions(0, seed=seed, neighbours=neighbours, copies=copies)


def ask_options(
    label: o.Label = None,
    positive: o.Positive = None,
    fit: o.Fit = None,
    fpr: o.Fpr = 0.05,
) -> Ask:
    """Labels to measure the scores against, and to fit thresholds on."""
    from nll.runs import Ask

    return Ask(label, positive, fit, fpr)


def cluster(
    engine: o.Engine = "local",
    address: o.Address = None,
    workers: o.Workers = None,
    worker_cpus: o.WorkerCpus = 1.0,
    worker_gpus: o.WorkerGpus = 0.0,
) -> Cluster | None:
    """The cluster that the model runs on, or None for this process."""
    from nll._errors import BadInput
    from nll.runs import Cluster

    if engine == "ray":
        return Cluster(address, workers, worker_cpus, worker_gpus)
    if engine != "local":
        raise BadInput(f"--engine is local or ray, not '{engine}'")
    if (address, workers, worker_cpus, worker_gpus) != (None, None, 1.0, 0.0):
        raise BadInput("--address and --worker options go with --engine ray")
    return None


def done(outcome: Outcome, out: Path | None) -> int:
    """Say how many texts were scored and where to; the exit code."""
    texts = f"{outcome.scored} text{'s' * (outcome.scored != 1)} scored"
    if outcome.rejected:
        texts += f", {outcome.rejected} rejected"
        texts += f" (see {outcome.rejects})" if outcome.rejects else ""
    say(f"{texts}; wrote {out}" if out else texts)
    return 1 if outcome.rejected else 0
