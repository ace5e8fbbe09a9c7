"""The web page at `/`."""

from __future__ import annotations

from fastapi import FastAPI

from nll.serve._served import Served


def add_page(app: FastAPI, served: Served, *, needs_token: bool) -> None:
    """Add the page's routes."""
