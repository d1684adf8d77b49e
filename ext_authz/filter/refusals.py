"""What is answered in place of MLflow: its own form of errors, which its client shows."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import JSONResponse


class Refused(Exception):
    """The call is not passed on. `message` reaches the caller: never anything of another project."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        """`code`: an error code of MLflow."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def response(self) -> JSONResponse:
        content = {"error_code": self.code, "message": f"Tollgate: {self.message}"}
        return JSONResponse(content, self.status, {"cache-control": "no-store"})


def unusable(message: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, "INVALID_PARAMETER_VALUE", message)


def forbidden(message: str) -> Refused:
    return Refused(HTTPStatus.FORBIDDEN, "PERMISSION_DENIED", message)


def missing(what: str, which: str) -> Refused:
    """The same for what there is not and for what is in a project that the caller has no part in."""
    return Refused(HTTPStatus.NOT_FOUND, "RESOURCE_DOES_NOT_EXIST", f"there is no {what} {which!r}")


def too_large(most: int) -> Refused:
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "INVALID_PARAMETER_VALUE", f"more than {most} bytes")


def unavailable(message: str) -> Refused:
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, "TEMPORARILY_UNAVAILABLE", message)
