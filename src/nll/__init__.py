"""Run a language model over a text once, keep what its likelihood says, derive everything else.

import nll
model = nll.load()
traces = list(model.trace(["The capital of France is Paris."]))
nll.score(traces, ["min_k_prob", "lrr"]).to_pylist()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "BadFile": "_errors",
    "BadInput": "_errors",
    "BadModel": "_errors",
    "BadText": "_errors",
    "Bundle": "_bundle",
    "Fields": "trace",
    "MissingExtra": "_errors",
    "MissingField": "_errors",
    "NllError": "_errors",
    "Provenance": "trace",
    "Rejected": "trace",
    "Samples": "_bundle",
    "Text": "trace",
    "Trace": "trace",
    "Undefined": "_declare",
    "declarations": "_declare",
    "declare_score": "_declare",
    "gather": "_plan",
    "load": "models",
    "read_bundles": "_arrow_bundles",
    "read_traces": "_arrow",
    "score": "_table",
    "write_bundles": "_arrow_bundles",
    "write_traces": "_arrow",
}
_ROOMS = (
    "bayes",
    "kernels",
    "metrics",
    "models",
    "negatives",
    "nn",
    "objectives",
    "scores",
    "serve",
    "studies",
    "tasks",
    "testing",
    "theory",
    "trace",
    "training",
)

__all__ = [
    "BadFile",
    "BadInput",
    "BadModel",
    "BadText",
    "Bundle",
    "Fields",
    "MissingExtra",
    "MissingField",
    "NllError",
    "Provenance",
    "Rejected",
    "Samples",
    "Text",
    "Trace",
    "Undefined",
    "__version__",
    "bayes",
    "declarations",
    "declare_score",
    "gather",
    "kernels",
    "load",
    "metrics",
    "models",
    "negatives",
    "nn",
    "objectives",
    "read_bundles",
    "read_traces",
    "score",
    "scores",
    "serve",
    "studies",
    "tasks",
    "testing",
    "theory",
    "trace",
    "training",
    "write_bundles",
    "write_traces",
]

if TYPE_CHECKING:
    from nll import (
        bayes,
        kernels,
        metrics,
        models,
        negatives,
        nn,
        objectives,
        scores,
        serve,
        studies,
        tasks,
        testing,
        theory,
        trace,
        training,
    )
    from nll._arrow import read_traces, write_traces
    from nll._arrow_bundles import read_bundles, write_bundles
    from nll._bundle import Bundle, Samples
    from nll._declare import Undefined, declarations
    from nll._declare import score as declare_score
    from nll._errors import (
        BadFile,
        BadInput,
        BadModel,
        BadText,
        MissingExtra,
        MissingField,
        NllError,
    )
    from nll._plan import gather
    from nll._table import score
    from nll.models import load
    from nll.trace import Fields, Provenance, Rejected, Text, Trace


def __getattr__(name: str) -> Any:
    if name in _HOME:
        module = import_module(f"nll.{_HOME[name]}")
        value = getattr(module, "score" if name == "declare_score" else name)
    elif name in _ROOMS:
        value = import_module(f"nll.{name}")
    else:
        raise AttributeError(f"module 'nll' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
