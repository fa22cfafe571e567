"""The one table of status codes, and how each family of routes words an error.

An error never holds the text, a key, or any other value of the request.
"""

from typing import Any

from starlette.exceptions import HTTPException

# Status → the type in an error of OpenAI's and vLLM's shape, and in one of TEI's.
TABLE = {
    400: ("BadRequestError", "Empty"),  # not JSON, not UTF-8, unsupported encoding, empty list
    401: ("AuthenticationError", "Unauthorized"),
    403: ("PermissionDeniedError", "Forbidden"),
    404: ("NotFoundError", "NotFound"),  # unknown model: never the base in its place
    405: ("MethodNotAllowedError", "NotFound"),
    413: ("PayloadTooLargeError", "Validation"),  # body over the limit, too many texts
    415: ("UnsupportedMediaTypeError", "Validation"),
    422: ("UnprocessableEntityError", "Validation"),  # wrong type, empty text, other choices
    429: ("RateLimitError", "Overloaded"),  # sent after a pause, with Retry-After
    500: ("InternalServerError", "Backend"),  # a fault of ours
    503: ("ServiceUnavailableError", "Unhealthy"),  # starting, draining, restarting
    504: ("DeadlineExceededError", "Overloaded"),  # the deadline passed in the queue
}
TEI_PATHS = ("/predict", "/invocations", "/info")


class Refusal(HTTPException):
    """A request that gets an error. message: for the client, without any value of the request.

    param: the field that is wrong. retry_after: seconds until another try may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


def body_of(path: str, refusal: Refusal) -> dict[str, Any]:
    """The body of an error, in the shape that the clients of this route read."""
    status = refusal.status_code
    openai, tei = TABLE.get(status, TABLE[500 if status >= 500 else 400])
    if path in TEI_PATHS:
        return {"error": refusal.message, "error_type": tei}
    if path == "/v2" or path.startswith("/v2/"):
        return {"error": refusal.message}
    return {
        "error": {
            "message": refusal.message,
            "type": openai,
            "param": refusal.param,
            "code": status,
        }
    }


def headers_of(refusal: Refusal) -> dict[str, str]:
    """The headers of an error besides its type."""
    headers = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(refusal.retry_after + 0.5)))
    if refusal.status_code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
