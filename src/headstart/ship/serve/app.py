"""The routes: the page, answers, explanations, the model's card, health, counts and what the interface is."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from headstart import __version__
from headstart.files import text_bytes
from headstart.records import plain
from headstart.ship.model import Prediction
from headstart.ship.serve import schema
from headstart.ship.serve.batching import Batcher
from headstart.ship.serve.guard import HEADERS, Guard
from headstart.ship.serve.limits import Claim, Gone, Held, Limits, Refused, Upload, body_of, unless_gone, uploads_of
from headstart.ship.serve.metrics import Metrics
from headstart.ship.serve.service import Service, named

__all__ = ["create_app"]

_PAGE = Path(__file__).parent / "page.html"
_TURN = 8  # pictures that are computed together: a small turn lets answers out early, and others in between
PATHS = ("/", "/predict", "/explain", "/model", "/healthz", "/metrics", "/docs", "/openapi.json")


class _Desk:
    """Takes pictures from requests and brings answers back: limits, queues and counts."""

    def __init__(self, service: Service, limits: Limits, metrics: Metrics) -> None:
        self.service, self.limits, self.metrics = service, limits, metrics
        self.held = Held(limits.held)
        pool = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.predicting: Batcher[Prediction] = Batcher(
            service.predict, pool=pool, most=_TURN, queue=limits.queue, patience=limits.answer_seconds,
            told=metrics.batches.add,
        )  # fmt: skip
        self.explaining: Batcher[dict[str, Any]] = Batcher(
            lambda pictures: [service.explain(picture) for picture in pictures],
            pool=pool, most=1, queue=limits.queue, patience=limits.answer_seconds,
        )  # fmt: skip

    @property
    def waiting(self) -> int:
        return self.predicting.waiting + self.explaining.waiting

    async def answer(self, request: Request, batcher: Batcher[Any], *, most: int) -> list[tuple[Upload, Any]]:
        """The uploads of a request with their results."""
        limits = self.limits
        with Claim(self.held) as claim:
            body = await body_of(request.receive, request.headers, limits=limits, claim=claim)
            uploads = uploads_of(body, request.headers.get("content-type", ""), limits=limits)
            if len(uploads) > most:
                raise Refused(413, "too_many", f"this takes {most} picture at a time")
            work = batcher.answer([upload.data for upload in uploads], request.scope.get("place"))
            results = await unless_gone(request.receive, work, seconds=limits.answer_seconds)
        return list(zip(uploads, results, strict=True))

    def count(self, answer: Prediction) -> None:
        """Count one answer by its kind."""
        kind = "unreadable" if answer.error is not None else "known" if answer.best is None else "unknown"
        self.metrics.answers[kind] += 1


def create_app(service: Service, *, limits: Limits | None = None, hosts: Iterable[str] = ()) -> Guard:
    """The ASGI application that serves a model. `hosts` are names by which it may be called, besides addresses."""
    limits, metrics = limits or Limits(), Metrics()
    desk = _Desk(service, limits, metrics)
    app = FastAPI(
        title="headstart", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False,
        description="One model: pictures in, classes with probabilities out.",
    )  # fmt: skip
    _refusals(app)
    _pages(app, desk)
    _answers(app, desk)
    doors: dict[str, Batcher[Any]] = {"/predict": desk.predicting, "/explain": desk.explaining}
    return Guard(app, hosts=hosts, paths=PATHS, metrics=metrics, doors=doors)


def _json(content: Any, status: int = 200, **headers: str) -> Response:
    """JSON as `predict --json` writes it: every number is the double that the model gave."""
    text = json.dumps(plain(content), ensure_ascii=False, allow_nan=False)
    return Response(text_bytes(text), status_code=status, media_type="application/json", headers=headers)


# --- refusals -----------------------------------------------------------------------------------------------------


def _refusals(app: FastAPI) -> None:
    """Every refusal is {detail, reason}."""

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> Response:
        return _json(error.content, error.status, **error.headers)

    @app.exception_handler(Gone)
    async def gone(_request: Request, _error: Gone) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(MemoryError)
    async def full(_request: Request, _error: MemoryError) -> Response:
        return _json({"detail": "not enough memory; try again later", "reason": "busy"}, 503, **{"Retry-After": "5"})

    @app.exception_handler(HTTPException)
    async def wrong(_request: Request, error: HTTPException) -> Response:
        reason = {404: "path", 405: "method"}.get(error.status_code, "request")
        headers = dict(error.headers or {})
        return _json({"detail": str(error.detail), "reason": reason}, error.status_code, **headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        words = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return _json({"detail": words, "reason": "option"}, 422)


# --- routes -------------------------------------------------------------------------------------------------------


def _answers(app: FastAPI, desk: _Desk) -> None:
    async def predict(request: Request, top_k: Annotated[int | None, Query(ge=1)] = None) -> Response:
        """Name the class of one or many pictures: the list that `headstart predict --json` prints."""
        found = await desk.answer(request, desk.predicting, most=desk.limits.pictures)
        answers = [named(answer, upload.name) for upload, answer in found]
        for answer in answers:
            desk.count(answer)
        rows = [answer.as_dict(top_k) for answer in answers]
        if all(answer.error is not None for answer in answers):
            return _json({"detail": rows[0]["error"], "reason": "unreadable", "answers": rows}, 422)
        return _json(rows)

    async def explain(request: Request) -> Response:
        """The answer for one picture, where the model looked, and the training pictures most like it."""
        ((upload, found),) = await desk.answer(request, desk.explaining, most=1)
        answer = named(found["answer"], upload.name)
        desk.count(answer)
        content = {**found, "answer": answer.as_dict()}
        if answer.error is not None:
            return _json({"detail": answer.error, "reason": "unreadable", **content}, 422)
        return _json(content)

    body = schema.picture_body(desk.limits)
    app.post("/predict", responses=schema.ANSWERS, openapi_extra=body)(predict)
    app.post("/explain", responses=schema.EXPLANATION, openapi_extra=body)(explain)


def _pages(app: FastAPI, desk: _Desk) -> None:
    page, policy = _page()
    about = _json(desk.service.about() | {"limits": desk.limits}).body

    def get(path: str, answer: Callable[[], Response], words: str, *, shown: bool = True) -> None:
        async def endpoint() -> Response:
            return answer()

        app.get(path, include_in_schema=shown, name=path, description=words, summary=words)(endpoint)

    html = "text/html; charset=utf-8"
    get(
        "/",
        lambda: Response(page, headers={"content-security-policy": policy}, media_type=html),
        "The page",
        shown=False,
    )
    get("/model", lambda: Response(about, media_type="application/json"), "The model's card and its scores.")
    get("/healthz", lambda: _json({"status": "ok", "waiting": desk.waiting}), "Whether the server answers.")
    get("/metrics", lambda: Response(
        desk.metrics.text(waiting=desk.waiting, held=desk.held.total), media_type="text/plain; version=0.0.4"
    ), "Counts in Prometheus' text format.")  # fmt: skip
    get("/docs", lambda: Response(
        schema.docs_page(app.openapi()), headers={"content-security-policy": schema.docs_policy()}, media_type=html
    ), "What the interface is", shown=False)  # fmt: skip


def _page() -> tuple[bytes, str]:
    """The page, and a policy by which only the page's own script and style run."""
    data = _PAGE.read_bytes()
    hashes = {}
    for tag in ("script", "style"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), data, re.DOTALL)
        hashes[tag] = "'sha256-" + base64.b64encode(hashlib.sha256(inner).digest()).decode() + "'"
    policy = (
        f"{HEADERS['content-security-policy']}; script-src {hashes['script']}; style-src {hashes['style']};"
        " img-src data:; connect-src 'self'"
    )
    return data, policy
