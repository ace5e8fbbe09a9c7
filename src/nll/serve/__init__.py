"""A model over HTTP: OpenAI's routes, ours, and a page, with concurrent texts in shared passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nll.serve._limits import Limits
from nll.serve._run import serve

if TYPE_CHECKING:
    from nll.serve._app import create_app

__all__ = ["Limits", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    if name != "create_app":
        raise AttributeError(f"module 'nll.serve' has no attribute '{name}'")
    from nll.serve._run import check_extra

    check_extra()
    from nll.serve._app import create_app

    return create_app
