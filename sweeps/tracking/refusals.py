"""What MLflow will never accept, however often it is asked."""

from __future__ import annotations

import re
from types import TracebackType

#: MLflow's error codes that time does not mend, such as a value too long for its column or a run that was deleted.
_CODES = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
#: The same as HTTP says it, such as a file that is too large: uploads raise requests.HTTPError, which has no code.
_STATUSES = (400, 405, 411, 413, 415, 422)
#: How MLflow's client names the status of an answer that is not MLflow's own, such as a page of a proxy; it then gives
#: all statuses that it does not know one code, INTERNAL_ERROR.
_FOREIGN = re.compile(r"API request to endpoint \S+ failed with error code (\d{3}) != ")


class Refusals:
    """Lets what follows a refused request be written all the same; the refusal is kept until somebody asks.

    ``with refusals: request()`` goes on after a refusal, and raises everything else. For one thread.
    """

    def __init__(self) -> None:
        self._first: Exception | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(exc, Exception) or not is_refusal(exc):
            return False
        self.add(exc)
        return True

    def add(self, exc: Exception) -> None:
        self._first = self._first or exc

    def take(self) -> Exception | None:
        """The first one since it was last asked for."""
        first, self._first = self._first, None
        return first


def is_refusal(exc: Exception) -> bool:
    """Whether the request was read and will never be accepted: trying again would only delay the others."""
    status = getattr(getattr(exc, "response", None), "status_code", None)
    foreign = _FOREIGN.match(str(exc))
    if foreign is not None:
        status = int(foreign[1])
    return getattr(exc, "error_code", "") in _CODES or status in _STATUSES
