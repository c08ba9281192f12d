"""The endpoints that Label Studio asks for, on the server of the page.

    GET  /health      is there a model
    POST /setup       a project was connected: its label config, a token
    POST /predict     tasks, and what was clicked on one of them -> brush strokes or polygons
    POST /webhook     annotations were submitted, changed or deleted; START_TRAINING
    POST /train       the same as START_TRAINING, as older versions ask

What is clicked is answered as on the page, what is submitted becomes accepted masks of a domain that is
called like the project, and training is a job of the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

from everseg.data.streamfile import is_name
from everseg.errors import UserError
from everseg.runs.inputs import SUFFIXES
from everseg.runs.problem import refuse_classes
from everseg.runs.prompts import Asked
from everseg.serve.answers import limited
from everseg.serve.gallery import Entry
from everseg.serve.labels import Accepted
from everseg.serve.labelstudio.begun import Begun
from everseg.serve.labelstudio.results import Control, clicked, control_of, masked, objects_in
from everseg.serve.labelstudio.tasks import Memory, Studio
from everseg.serve.limits import Refused
from everseg.serve.server import Server
from everseg.types import RESERVED

SUBMITTED = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED")
MANY, DELETED = "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED"
TRAIN = "START_TRAINING"
OWNER = "label studio"
"""Who asks, in the queue of the server."""
STATES = {"accepted": "finished", "failed": "failed", "cancelled": "failed", "discarded": "failed"}
"""Label Studio's words for jobs that are decided."""


class Backend:
    """A server's run behind Label Studio.

    studio: where images of its tasks are asked for; its token goes before the one that `/setup` brings.

    Raises:
        UserError: the run learned classes.
    """

    def __init__(self, server: Server, studio: Studio) -> None:
        refuse_classes(server.answers.run.config.method, "Label Studio points at single objects")
        self.server, self.studio, self.given = server, studio, studio.token
        self.memory = Memory(server.labels.folder / "label-studio.json")
        self.begun = Begun(server.learning, self.memory)

    @property
    def version(self) -> str:
        """Changes with what the run has learned."""
        return self.server.fresh().state

    def setup(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A project was connected."""
        control_of(str(asked.get("schema") or asked.get("label_config") or ""))
        self.studio.token = self.given or str(asked.get("access_token") or "")
        return {"model_version": self.version}

    # ------------------------------------------------------------ clicks

    async def predict(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Masks for what was clicked; no result for a task where nothing was."""
        control = control_of(str(asked.get("label_config") or ""))
        context = ((asked.get("params") or {}).get("context") or {}).get("result") or []
        results = [await self._result(task, control, context) for task in asked.get("tasks") or []]
        return {"results": results, "model_version": self.version}

    async def _result(self, task: Mapping[str, Any], control: Control, context: Any) -> dict[str, Any]:
        nothing = {"result": [], "score": 0.0, "model_version": self.version}
        if not context:
            return nothing
        entry, height, width = await run_in_threadpool(self._image, task, control)
        found = clicked(context, width, height)
        if found is None:
            return nothing
        objects = limited([Asked(found.points, found.labels, found.box)], self.server.config.limits)
        (one,) = await self.server.turns.run(OWNER, lambda: self.server.fresh().objects(entry, objects))
        score = round(one.iou, 4)
        module = {} if one.route is None else {"module": one.route.name}
        return {
            "result": masked(one.region, control, found.label, score),
            "score": score,
            "model_version": self.version,
            **module,
        }

    def _image(self, task: Mapping[str, Any], control: Control) -> tuple[Entry, int, int]:
        """A task's image among the uploaded ones, fetched once, with its height and width."""
        gallery, number, url = self.server.gallery, int(task["id"]), str(task["data"][control.data])
        known = self.memory.image(number, url)
        try:
            entry = gallery.entry(known)
        except Refused:  # Fetched for the first time, or deleted since.
            content = self.studio.fetch(url)
            entry = gallery.add(_file_name(number, url, content), content)
            self.memory.keep_image(number, url, entry.id)
        height, width = gallery.pixels(entry).shape[-2:]
        return entry, int(height), int(width)

    # ------------------------------------------------------------ annotations

    def webhook(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """An annotation has changed, or learning is asked for."""
        action, project = str(asked.get("action", "")), asked.get("project") or {}
        if action == TRAIN:
            return self.train(self._domain(project))
        if action in SUBMITTED:
            return self._submitted(asked.get("task") or {}, asked.get("annotation") or {}, project)
        if action == MANY:
            tasks = {one["id"]: one for one in asked["task"]}
            told = [self._submitted(tasks[one["task"]], one, project) for one in asked["annotation"]]
            return {"objects": sum(one["objects"] for one in told)}
        if action == DELETED:
            for one in asked.get("annotations") or []:
                self._drop(self._domain(project), self.memory.annotated(int(one["id"])))
        return {}

    def _submitted(
        self, task: Mapping[str, Any], annotation: Mapping[str, Any], project: Mapping[str, Any]
    ) -> dict[str, Any]:
        entry, height, width = self._image(task, control_of(str(project.get("label_config") or "")))
        masks = [mask for _, mask in objects_in(annotation.get("result") or [], height, width)]
        domain = self._domain(project)
        if annotation.get("id") is not None:
            self.memory.keep_annotation(int(task["id"]), int(annotation["id"]))
        if not masks:
            self._drop(domain, entry.id)
            return {"objects": 0}
        accepted = [Accepted(mask, Asked()) for mask in masks]
        pixels = self.server.gallery.pixels(entry)
        self.server.labels.accept(domain, entry.id, entry.shown, pixels, accepted)
        return {"objects": len(masks), "domain": domain}

    def _drop(self, domain: str, image: str) -> None:
        for name, label in self.server.labels.of(image):
            if name == domain and label.objects:
                self.server.labels.remove(domain, label.name)

    def _domain(self, project: Mapping[str, Any]) -> str:
        """The domain of a project: called like its title when it was first met."""
        number = int(project["id"])
        known = self.memory.domain(number)
        if known:
            return known
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(project.get("title") or "")).strip("-._")[:60]
        if not is_name(name) or name in RESERVED:
            name = f"label-studio-{number}"
        self.memory.keep_domain(number, name)
        return name

    # ------------------------------------------------------------ learning

    def train(self, domain: str) -> dict[str, Any]:
        """Begin to learn a domain.

        Raises:
            Refused: too little was submitted, or it is being learned.
        """
        return {"job": self.begun.start(domain), "status": "learning"}

    def train_project(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Begin to learn a project, given as "2.1795924312"."""
        return self.train(self._domain({"id": int(str(asked.get("project")).partition(".")[0])}))

    def status(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """How far the newest job is, or the one that is asked for."""
        jobs = self.begun.jobs()
        name = str(asked.get("job") or "") or (jobs[-1] if jobs else "")
        if not name:
            return {"job_status": "finished", "error": "", "learned": self.server.answers.run.learned}
        job = self.server.learning.job(name)
        state, said = STATES.get(job["state"], "started"), job["error"]
        if job["state"] == "ready" and job["verdict"] == "fail":
            state, said = "failed", f"{job['stage']} makes the run worse; look at it on the page and decide"
        return {"job_status": state, "error": said, "learned": self.server.answers.run.learned}


def _file_name(number: int, url: str, content: bytes) -> str:
    """What a task's image is called: as in its address, else by its number.

    Raises:
        UserError: it is not an image.
    """
    name = "" if url.startswith("data:") else PurePosixPath(urlsplit(url).path).name
    if Path(name).suffix.lower() in SUFFIXES:
        return name
    try:
        with Image.open(io.BytesIO(content)) as picture:
            kind = str(picture.format).lower()
    except OSError as error:
        raise UserError(
            f"the image of task {number} cannot be read: it is not a PNG, JPEG or similar"
        ) from error
    return f"task-{number}.{kind}"


def router(backend: Backend) -> APIRouter:
    """The endpoints."""
    api = APIRouter()

    @api.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "UP", "model_class": "everseg", "model_version": backend.version}

    @api.get("/versions")
    def versions() -> dict[str, Any]:
        return {"versions": [backend.version]}

    @api.post("/predict")
    async def predict(request: Request) -> Any:
        try:
            return await backend.predict(await _given(request))
        except FAULTS as error:
            raise _not_theirs(error) from error

    def post(path: str, work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        @api.post(path, name=path.strip("/"))
        async def asked(request: Request) -> Any:
            try:
                return await run_in_threadpool(work, await _given(request))
            except FAULTS as error:
                raise _not_theirs(error) from error

    post("/setup", backend.setup)
    post("/webhook", backend.webhook)
    post("/train", backend.train_project)
    post("/job_status", backend.status)
    post("/delete", lambda given: {})
    post("/validate", lambda given: {"control": control_of(str(given.get("config", ""))).name})
    return api


FAULTS = (AttributeError, KeyError, TypeError, ValueError)
"""What a request of another shape runs into."""


def _not_theirs(error: Exception) -> Refused:
    return Refused(422, f"the request is not one of Label Studio's ({error!r})")


async def _given(request: Request) -> dict[str, Any]:
    """The JSON object of a request; empty where there is none."""
    try:
        given = await request.json()
    except ValueError:
        given = {}
    if not isinstance(given, dict):
        raise Refused(422, "the request is not a JSON object")
    return given
