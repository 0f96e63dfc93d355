"""The web application: what it answers, and what it refuses."""

import asyncio
import hashlib
import importlib.metadata
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from pipeline.errors import PipelineError, explained, unexpected
from pipeline.network.answers import choose_answers
from pipeline.network.onnx_file import OnnxModel
from pipeline.progress import say
from pipeline.serve.classifying import Classifying, Limits, Outputs

PROJECT = "image-classification-pipeline"
RETRY_SECONDS = 1
Result = TypeVar("Result")
# For /openapi.json: the body is read by hand, within the limits.
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@dataclass(frozen=True)
class Answering:
    """What an answer contains.

    Attributes:
        abstain, precision: the options that the thresholds are from.
        thresholds: for each class, the lowest probability that is not unsure; NaN if all are.
        top: number of classes per image, unless the request says another.
    """

    abstain: float | None
    precision: float | None
    thresholds: NDArray[np.float64]
    top: int

    @property
    def options(self) -> dict[str, float | None]:
        """The options, for the client."""
        return {"abstain": self.abstain, "abstain_precision": self.precision}


def make_app(model: OnnxModel, classifying: Classifying, limits: Limits, answering: Answering) -> FastAPI:
    """Build the application.

    Args:
        model: the network.
        classifying: runs it; closed when the application ends.
        limits: of a request.
        answering: what an answer contains.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        classifying.close()

    version = importlib.metadata.version(PROJECT)
    app = FastAPI(title=PROJECT, version=version, docs_url=None, redoc_url=None, lifespan=lifespan)
    slots = _Slots(limits.requests)
    facts = {
        "project": version,
        "model": {"file": model.path.name, "sha256": _sha256(model.path), "network": model.network},
        "classes": model.classes,
        "image_size": model.image_size,
        **answering.options,
        "thresholds": [None if np.isnan(least) else least for least in answering.thresholds.tolist()],
        "limits": asdict(limits),
    }

    @app.post("/predict", openapi_extra=_BODY)
    async def predict(request: Request, top: Annotated[int, Query(ge=1)] = answering.top) -> JSONResponse:
        """Classify one image or several: a form with files, or the bytes of one image as the body."""
        with slots.taken():
            images = await _results(request, classifying.submit, limits)
        answers = [_answer(name, found, model, top, answering.thresholds) for name, found in images]
        good = any("error" not in answer for answer in answers)
        status = HTTPStatus.OK if good else HTTPStatus.UNPROCESSABLE_ENTITY
        return JSONResponse({"images": answers, **answering.options}, status)

    @app.post("/explain", openapi_extra=_BODY)
    async def explain(request: Request) -> Response:
        """A picture of one image, in which the parts that speak for its class are bright."""
        submit = partial(classifying.explain, deadline=time.monotonic() + limits.seconds)
        with slots.taken():
            [(_, found)] = await _results(request, submit, limits, only_one=True)
        if isinstance(found, str):
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, found)
        return Response(found, media_type="image/png")

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server answers, and how many requests it is working on."""
        return {"status": "ok", "requests": slots.used}

    @app.get("/version")
    async def versions() -> dict[str, Any]:
        """The model and its classes, the version of the project, and the limits."""
        return facts

    for path, name in (("/", "index.html"), ("/page.css", "page.css"), ("/page.js", "page.js")):
        _add_file(app, path, Path(__file__).parent / "page" / name)
    _add_errors(app)
    return app


def _add_file(app: FastAPI, path: str, file: Path) -> None:
    @app.head(path, include_in_schema=False)
    @app.get(path, include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(file)


def _add_errors(app: FastAPI) -> None:
    """Every error is JSON with one line, ``{"error": ...}``."""

    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> JSONResponse:
        lines = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        return JSONResponse({"error": "; ".join(lines)}, HTTPStatus.BAD_REQUEST)


class _Slots:
    """Counts the requests that the server is working on."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        if self.used >= self.most:
            raise _busy(f"{self.most:,} requests are being answered, which is the limit")
        self.used += 1
        try:
            yield
        finally:
            self.used -= 1


def _busy(reason: str) -> HTTPException:
    return HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"{reason}; try again in {RETRY_SECONDS} s",
        {"Retry-After": str(RETRY_SECONDS)},
    )


async def _results(
    request: Request, submit: Callable[[BinaryIO], "Future[Result | str]"], limits: Limits, only_one: bool = False
) -> list[tuple[str | None, Result | str]]:
    """The name of each image of a request, and what became of it, or the reason why it cannot be decoded."""
    read = False
    try:
        async with asyncio.timeout(limits.seconds), _images(request, limits) as images:
            read = True
            if not images:
                raise HTTPException(HTTPStatus.BAD_REQUEST, "the form has no file")
            if only_one and len(images) > 1:
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"got {len(images):,} images, allowed is one")
            futures = [asyncio.wrap_future(submit(file)) for _, file in images]
            found = await asyncio.gather(*futures)
            return [(name, result) for (name, _), result in zip(images, found, strict=True)]
    except TimeoutError:
        if read:
            # The same request would take as long again, so no Retry-After.
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE, f"no answer within {limits.seconds:g} s, the limit of the server"
            ) from None
        raise HTTPException(
            HTTPStatus.REQUEST_TIMEOUT, f"the request was not received within {limits.seconds:g} s"
        ) from None
    except ClientDisconnect:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "the connection ended before the request did") from None
    except UnicodeError:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "the charset of the form cannot be read; use utf-8") from None
    except StarletteHTTPException:
        raise
    except Exception as error:
        line = str(error) if isinstance(error, PipelineError) else explained(error) or unexpected(error)
        say(f"serve: error: {line}")
        raise HTTPException(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log has the reason") from None


@asynccontextmanager
async def _images(request: Request, limits: Limits) -> AsyncIterator[Sequence[tuple[str | None, BinaryIO]]]:
    """The names and the open files of the images of a request; they are closed at the end."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    limited = _limited(request, limits.bytes)
    if kind == "multipart/form-data":
        async with limited.form(max_files=limits.images, max_fields=limits.images) as form:
            yield [_upload(field, value) for field, value in form.multi_items()]
    elif kind.startswith("image/") or kind == "application/octet-stream":
        yield [(None, BytesIO(await limited.body()))]
    else:
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"got the content type {kind!r}, allowed are multipart/form-data with files, and image/*",
        )


def _upload(field: str, value: UploadFile | str) -> tuple[str | None, BinaryIO]:
    if isinstance(value, str):
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"the field {field!r} of the form is text, allowed are files")
    # The form's charset can give characters that UTF-8, and so the answer, cannot have.
    return value.filename and value.filename.encode("utf-8", "replace").decode(), value.file


def _limited(request: Request, most: int) -> Request:
    """A request whose body may have at most this many bytes; what is beyond them is never kept."""
    refusal = HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has more than {most:,} bytes")
    stated, received = request.headers.get("content-length", ""), 0
    if stated.isdecimal() and int(stated) > most:
        raise refusal

    async def receive() -> Any:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most:
            raise refusal
        return message

    return Request(request.scope, receive)


def _answer(
    name: str | None, found: Outputs | str, model: OnnxModel, top: int, thresholds: NDArray[np.float64]
) -> dict[str, Any]:
    """The answer for one image."""
    if isinstance(found, str):
        return {"name": name, "error": found}
    [row], [energy] = found
    order = np.argsort(-row, kind="stable")[:top]
    best = [{"class": model.classes[index], "probability": round(float(row[index]), 6)} for index in order]
    judged = choose_answers([model], *found, thresholds)
    [answer], [outlier] = judged.answer, judged.outlier
    unlike = None if outlier == "" else bool(outlier)
    unsure = answer != best[0]["class"]
    return {"name": name, **best[0], "unsure": unsure, "energy": round(energy, 6), "outlier": unlike, "top": best}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
