"""The web application: one run, one gallery, one folder of labels."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, File, Query, Request, Response, UploadFile
from fastapi import Path as FromPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from everseg.errors import UserError
from everseg.serve.answers import limited
from everseg.serve.gallery import THUMBNAIL
from everseg.serve.guard import Guard
from everseg.serve.limits import Refused, on_page
from everseg.serve.schema import (
    AcceptRequest,
    CorrectRequest,
    DecideRequest,
    FilesRequest,
    LearnRequest,
    PaintRequest,
    SegmentRequest,
)
from everseg.serve.server import Server

PAGE = Path(__file__).parent / "page"

ImageName = Annotated[str, FromPath(pattern=r"^[0-9a-f]{16}$")]
Name = Annotated[str, FromPath(max_length=200)]

FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"description": what}
    for status, what in {
        400: "The request cannot be met; `error` says why, in a sentence.",
        403: "From another site, or a path that leads out of the opened folder.",
        404: "There is no such image, domain, job or file.",
        409: "Not as things are now.",
        410: "The page was idle for too long.",
        413: "Too large or too many.",
        415: "No image that can be read.",
        422: "A value of the wrong kind.",
        503: "Too many pages or jobs.",
    }.items()
}


def application(server: Server, studio: APIRouter | None = None) -> ASGIApp:
    """The application, guarded.

    studio: the endpoints that Label Studio asks for, below /label-studio.
    """
    api = FastAPI(
        title="everseg serve",
        version=version("everseg"),
        description="Segment images with a run, label a new domain, learn it, check it and accept it.",
        docs_url=None,
        redoc_url=None,
        lifespan=partial(_life, server),
    )

    @api.exception_handler(UserError)
    async def _sentence(request: Request, error: UserError) -> JSONResponse:
        status = error.status if isinstance(error, Refused) else 400
        return JSONResponse({"error": on_page(str(error))}, status)

    @api.exception_handler(HTTPException)
    async def _as_it_is(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @api.exception_handler(RequestValidationError)
    async def _wrong_value(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        sentence = f"{place or 'the request'}: {first['msg']}"
        if first["type"] == "json_invalid":
            why = first.get("ctx", {}).get("error", "it cannot be decoded")
            sentence = f"the request is not valid JSON: {why} at character {place}"
        elif not place and first["type"] == "missing":
            sentence = "the request is empty; send a JSON object"
        elif not place and first["type"] == "model_attributes_type":
            sentence = "the request is not a JSON object; send one with Content-Type: application/json"
        return JSONResponse({"error": sentence}, 422)

    _run_endpoints(api, server)
    _image_endpoints(api, server)
    _label_endpoints(api, server)
    _job_endpoints(api, server)

    if studio is not None:
        api.include_router(studio, prefix="/label-studio", include_in_schema=False)

    @api.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    api.mount("/page", StaticFiles(directory=PAGE), name="page")
    config = server.config
    return Guard(api, host=config.host, names=config.names, token=config.token, limits=config.limits)


@asynccontextmanager
async def _life(server: Server, app: FastAPI) -> AsyncIterator[None]:
    yield
    await run_in_threadpool(server.close)


def _run_endpoints(api: FastAPI, server: Server) -> None:
    @api.get("/api/run", tags=["run"], responses=FAULTS)
    def run() -> dict[str, Any]:
        """The run, its modules and colours, and what this server takes on."""
        return server.about()

    @api.post("/api/sessions", tags=["run"], status_code=201, responses=FAULTS)
    def open_session() -> dict[str, str]:
        """Open a session, which a page needs to segment."""
        server.fresh()
        return {"session": server.sessions.open()}

    @api.delete("/api/sessions/{session}", tags=["run"], status_code=204, responses=FAULTS)
    def close_session(session: Name) -> None:
        """Close a session."""
        server.live.end(session)
        server.sessions.close(session)

    @api.get("/api/live/{session}", tags=["live"], responses=FAULTS)
    def live(session: Name) -> dict[str, Any]:
        """What a page's live session began with and was taught; it begins with the first correction."""
        return server.live.state(session, server.fresh())

    @api.post("/api/live/{session}/undo", tags=["live"], responses=FAULTS)
    def undo(session: Name) -> dict[str, Any]:
        """Take the last correction back."""
        return server.live.undo(session, server.fresh())

    @api.delete("/api/live/{session}", tags=["live"], status_code=204, responses=FAULTS)
    def discard_live(session: Name) -> None:
        """Throw away what was taught. The run never knew it."""
        server.live.end(session)

    @api.get("/api/queue", tags=["run"], responses=FAULTS)
    def queue(session: Annotated[str, Query(max_length=64)] = "") -> dict[str, int]:
        """How many jobs run and wait, and the position of this session's first one that waits."""
        return {**server.turns.state, "position": server.turns.position(session)}


def _image_endpoints(api: FastAPI, server: Server) -> None:
    @api.get("/api/images", tags=["images"], responses=FAULTS)
    def images(
        under: Annotated[str, Query(max_length=1000)] = "",
        start: Annotated[int, Query(ge=0, le=10**9)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
        rescan: bool = False,
    ) -> dict[str, Any]:
        """The images in order.

        under: only those below this folder of the opened one.
        """
        if rescan:
            server.gallery.scan()
        found = server.gallery.entries(under)
        return {"total": len(found), "images": [server.told(entry) for entry in found[start : start + limit]]}

    @api.post("/api/images", tags=["images"], status_code=201, responses=FAULTS)
    async def upload(file: Annotated[UploadFile, File(description="An image file.")]) -> dict[str, Any]:
        """Keep an uploaded image; the same file twice is one image."""
        content = await file.read(server.config.limits.upload + 1)
        name = file.filename or "image"
        return server.told(await run_in_threadpool(server.gallery.add, name, content))

    @api.post("/api/painted", tags=["images"], status_code=201, responses=FAULTS)
    def paint(request: PaintRequest) -> dict[str, Any]:
        """Paint images of a synthetic domain to try the page with."""
        if request.domain not in server.about()["painted"]:
            raise Refused(404, f"nothing is painted as {request.domain!r}; /api/run lists what is")
        added = server.gallery.paint(request.domain, request.count)
        return {"images": [server.told(entry) for entry in added]}

    @api.get("/api/images/{image}/picture", tags=["images"], responses=FAULTS, response_class=Response)
    def picture(image: ImageName) -> Response:
        """The image as the model sees it, before it is stretched."""
        content, kind = server.gallery.picture(server.gallery.entry(image))
        return Response(content, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    @api.get("/api/images/{image}/thumbnail", tags=["images"], responses=FAULTS, response_class=Response)
    def thumbnail(image: ImageName) -> Response:
        """A small picture of the image."""
        content, kind = server.gallery.picture(server.gallery.entry(image), THUMBNAIL)
        return Response(content, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    @api.post("/api/images/{image}/segment", tags=["images"], responses=FAULTS)
    async def segment(image: ImageName, request: SegmentRequest) -> dict[str, Any]:
        """Masks of objects that are pointed at, or the class map. `record` is what `everseg predict` writes;
        `masks` are run lengths in column order, zeros first."""
        entry = server.gallery.entry(image)
        server.sessions.touch(request.session)
        asked = limited([one.asked() for one in request.objects], server.config.limits)

        def work() -> dict[str, Any]:
            answers = server.fresh()
            if request.live:
                return server.live.segment(request.session, answers, entry, asked)
            return answers.segment(entry, asked, request.stage)

        return await _turn(server, request.session, work)

    @api.post("/api/images/{image}/correct", tags=["live"], responses=FAULTS)
    async def correct(image: ImageName, request: CorrectRequest) -> dict[str, Any]:
        """Teach the page's live session a click that corrects, or accepted masks. Nothing is written."""
        entry = server.gallery.entry(image)
        asked = limited([one.asked() for one in request.objects], server.config.limits)
        masks = [one.mask for one in request.objects]

        def work() -> dict[str, Any]:
            return server.live.correct(request.session, server.fresh(), entry, asked, masks)

        return await _turn(server, request.session, work)

    @api.post("/api/images/{image}/files", tags=["images"], responses=FAULTS, response_class=Response)
    async def files(image: ImageName, request: FilesRequest) -> Response:
        """A zip of the files that `everseg predict` writes, byte for byte."""
        entry = server.gallery.entry(image)
        server.sessions.touch(request.session)
        asked = limited([one.asked() for one in request.objects], server.config.limits)

        def work() -> dict[str, bytes]:
            return server.fresh().files(entry, asked, request.stage, request.form)

        found = await _turn(server, request.session, work)
        return Response(await run_in_threadpool(_zipped, found), media_type="application/zip")


def _label_endpoints(api: FastAPI, server: Server) -> None:
    @api.get("/api/labels", tags=["labels"], responses=FAULTS)
    def labels() -> dict[str, Any]:
        """The labelled domains, and how many of their images are held out."""
        return {"domains": server.domains()}

    @api.post("/api/labels", tags=["labels"], status_code=201, responses=FAULTS)
    def accept(request: AcceptRequest) -> dict[str, Any]:
        """Accept masks; answered when they are on the disk."""
        return server.accept(request)

    @api.get("/api/labels/{domain}/{name}", tags=["labels"], responses=FAULTS)
    def masks(domain: Name, name: Name) -> dict[str, Any]:
        """The masks of an accepted image."""
        return server.masks(domain, name)

    @api.get("/api/routes/{domain}", tags=["labels"], responses=FAULTS)
    async def routes(domain: Name, session: Annotated[str, Query(max_length=64)] = "") -> dict[str, Any]:
        """Which modules the method chooses for the images of a labelled domain, and the domain of the run
        that it may be learned as later images of, or null."""
        return await _turn(server, session, partial(server.routes, domain))

    @api.delete("/api/labels/{domain}/{name}", tags=["labels"], status_code=204, responses=FAULTS)
    def remove(domain: Name, name: Name) -> None:
        """Delete an accepted image."""
        server.labels.remove(domain, name)


def _job_endpoints(api: FastAPI, server: Server) -> None:
    @api.get("/api/jobs", tags=["learning"], responses=FAULTS)
    def jobs() -> dict[str, Any]:
        """Domains that are learned or were, the newest first, and the run's `state` in /api/run."""
        return {"jobs": server.learning.jobs(), "state": server.fresh().state}

    @api.post("/api/jobs", tags=["learning"], status_code=201, responses=FAULTS)
    def learn(request: LearnRequest) -> dict[str, Any]:
        """Learn a labelled domain beside the run, which stays as it is until the job is accepted."""
        return server.learning.start(request.domain, request.later_of or "")

    @api.get("/api/jobs/{job}", tags=["learning"], responses=FAULTS)
    def job(job: Name) -> dict[str, Any]:
        """Progress, losses, and what the gate found."""
        return server.learning.job(job)

    @api.delete("/api/jobs/{job}", tags=["learning"], responses=FAULTS)
    def cancel(job: Name) -> dict[str, Any]:
        """Stop a job."""
        return server.learning.cancel(job)

    @api.post("/api/jobs/{job}/accept", tags=["learning"], responses=FAULTS)
    def accept_job(job: Name, request: DecideRequest) -> dict[str, Any]:
        """Make the run what was learned."""
        return server.learning.accept(job, anyway=request.anyway)

    @api.post("/api/jobs/{job}/discard", tags=["learning"], responses=FAULTS)
    def discard(job: Name) -> dict[str, Any]:
        """Throw away what was learned; the labels stay."""
        return server.learning.discard(job)

    @api.get("/api/jobs/{job}/files/{file}", tags=["learning"], responses=FAULTS, response_class=Response)
    def file(job: Name, file: Name) -> Response:
        """A picture of a change, or the gate's page (gate.html)."""
        path = server.learning.picture(job, file)
        # The gate's page brings its own style; it has no scripts.
        policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
        return FileResponse(path, headers={"content-security-policy": policy, "cache-control": "no-cache"})


async def _turn(server: Server, session: str, work: Callable[[], Any]) -> Any:
    return await server.turns.run(session, work)


def _zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()
