"""`everseg serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import BaseHere, RunFolder, app
from everseg.errors import UserError

MIB = 2**20


@app.command()
def serve(
    run: RunFolder,
    images: Annotated[
        Path | None, typer.Argument(metavar="IMAGES", help="A folder of images, or one image.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where accepted masks are kept; default: RUN-labels."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(metavar="HOST", help="Address to listen on; others than 127.0.0.1 need a token."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 takes a free one.")
    ] = 8008,
    name: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Another name of the server.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=0, metavar="N", help="Images segmented at a time; 0: one per core.")
    ] = 0,
    live: Annotated[
        bool, typer.Option("--live", help="Let a page's answers improve with each correction made on it.")
    ] = False,
    tile: Annotated[
        int | None, typer.Option(metavar="N", help="Process images larger than this in tiles.")
    ] = None,
    upload: Annotated[int, typer.Option(min=1, metavar="MIB", help="Maximum size of an uploaded file.")] = 64,
    pixels: Annotated[
        int, typer.Option(min=1, metavar="MILLIONS", help="Maximum number of pixels of an image.")
    ] = 50,
    sessions: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of open pages.")] = 64,
    label_studio: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Address of a Label Studio to be a model of, too."),
    ] = None,
    base: BaseHere = None,
) -> None:
    """Click, label, learn and check in the browser or in Label Studio.

    With --host other machines can open the page with a token: EVERSEG_TOKEN, or one that is generated and
    printed. LABEL_STUDIO_API_KEY is the token with which images are read from Label Studio.
    """
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed; install it with: pip install 'everseg[serve]'"
        ) from error
    from everseg.data.tiling import Tiling
    from everseg.serve.app import application
    from everseg.serve.guard import checked_token
    from everseg.serve.labelstudio.backend import Backend, router
    from everseg.serve.labelstudio.tasks import Studio
    from everseg.serve.limits import Limits
    from everseg.serve.listen import address, listening
    from everseg.serve.server import ServeConfig, Server

    token = checked_token(host, os.environ.get("EVERSEG_TOKEN", ""))
    config = ServeConfig(
        run,
        images,
        labels,
        base or "",
        host,
        tuple(name or ()),
        token,
        jobs,
        live,
        None if tile is None else Tiling(tile, 128),
        limits=Limits(upload=upload * MIB, pixels=pixels * 10**6, sessions=sessions),
    )
    beside = None
    if label_studio is not None:
        beside = Studio(label_studio, os.environ.get("LABEL_STUDIO_API_KEY", ""))
    with listening(host, port) as socket:
        server = Server(config)
        try:
            studio = None if beside is None else router(Backend(server, beside))
        except BaseException:
            server.close()
            raise
        print(f"labels: {config.folder}\nopen:   {address(socket, host, token)}", flush=True)
        if studio is not None:
            how = f", basic auth with any name and the password {token}" if token else ""
            print(f"in Label Studio: model {address(socket, host, '')}label-studio/{how}", flush=True)
        settings = uvicorn.Config(
            application(server, studio), log_level="warning", access_log=False, server_header=False
        )
        uvicorn.Server(settings).run([socket])
    sys.stdout.flush()
