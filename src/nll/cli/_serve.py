"""`nll serve`: a model over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from nll.cli import _options as o
from nll.cli._terminal import say


def serve_command(
    model: o.Model = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="NLL_TOKEN",
            show_default=False,
            help="Asked of every request; better in the environment, where no `ps` shows it.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine only with a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65_535)
    ] = 8000,
    reference: o.Reference = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name by which the server may be called; repeat it.", metavar="NAME"
        ),
    ] = None,
    max_body: Annotated[int, typer.Option(help="Bytes of a request at most.", min=1)] = 4 << 20,
    max_tokens: Annotated[
        int, typer.Option(help="Tokens of a request at most, those to be written included.", min=1)
    ] = 65_536,
    max_queue: Annotated[
        int, typer.Option(help="Texts that may wait; beyond, the answer is 429.", min=1)
    ] = 1_024,
    timeout: Annotated[
        float, typer.Option(help="Seconds that a request may take; beyond, it is 504.", min=0.1)
    ] = 600.0,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    dtype: o.Dtype = "float32",
    device: o.Device = "auto",
    bos: o.Bos = "auto",
    batch_tokens: o.BatchTokens = None,
) -> None:
    """Serve a model over HTTP: OpenAI's routes, scores, traces, and a page to try them.

    \b
    Texts that arrive together share forward passes. Stop it with Ctrl-C: it finishes what it took.
    Example: nll serve --port 8000, then open http://127.0.0.1:8000
    """
    from nll.models import load
    from nll.serve import Limits, serve
    from nll.serve._run import check_access, check_extra

    check_extra()
    check_access(host, token)
    limits = Limits(
        body_bytes=max_body, request_tokens=max_tokens, queue_texts=max_queue,
        request_seconds=timeout,
    )  # fmt: skip
    shared = {"device": device, "dtype": dtype, "bos": bos, "batch_tokens": batch_tokens}
    serve(
        load(model, revision=revision, trust_remote_code=trust_remote_code, **shared),  # type: ignore[arg-type]
        reference=None if reference is None else load(reference, **shared),  # type: ignore[arg-type]
        token=token, host=host, port=port, allow_hosts=allow_host or (), limits=limits, say=say,
    )  # fmt: skip
