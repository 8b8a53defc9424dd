"""What a client is told when it gets no answer: a status, and an error in OpenAI's shape."""

from typing import Any

from starlette.responses import JSONResponse

from jeito.errors import InputError, JeitoError

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(JeitoError):
    """A request that is not answered. `param`: the field that is wrong, by its path."""

    def __init__(
        self, status: int, message: str, *, hint: str = "", param: str | None = None, code: str | None = None,
        retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, hint=hint)
        self.status, self.param, self.word, self.retry_after = status, param, code, retry_after

    @property
    def reason(self) -> str:
        """One of few words, to be counted by."""
        return self.word or KINDS.get(self.status, "invalid_request" if self.status < 500 else "failed")


def refusal(error: JeitoError) -> Refusal:
    """Any error of ours as what a client sees: its own fault is 400, ours 500."""
    if isinstance(error, Refusal):
        return error
    return Refusal(400 if isinstance(error, InputError) else 500, str(error), hint=error.hint)


def shape(error: Refusal) -> dict[str, Any]:
    """OpenAI's shape of an error."""
    usual = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": f"{error} ({error.hint})" if error.hint else str(error),
            "type": KINDS.get(error.status, usual),
            "param": error.param,
            "code": error.word,
        }
    }


def response(error: Refusal) -> JSONResponse:
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(shape(error), error.status, headers)
