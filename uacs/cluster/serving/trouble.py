"""Why a request has no answer, as HTTP says it.

Trouble       code  the client may
  Unreadable   422   mend the request
  NoKey        401   send a key
  TooLarge     413   send less
  Full         503   try again after `retry_after` seconds
  Down         503   the same
  Late         504   give it more time, or ask for less
"""

RETRY_AFTER = 1  # seconds until a queue that was full has moved on
RETURN = 5  # seconds until a replica that died has been replaced, at the earliest


class Trouble(Exception):
    """A request without an answer; its text says why, and the mend."""

    code = 500
    retry_after: int | None = None


class Unreadable(Trouble):
    """The request cannot be read, or has nothing that a model reads."""

    code = 422


class NoKey(Trouble):
    """A key is wanted, and this is none."""

    code = 401


class TooLarge(Trouble):
    """More bytes or samples than may be sent at once."""

    code = 413


class Full(Trouble):
    """More requests wait than may."""

    code = 503
    retry_after = RETRY_AFTER


class Down(Trouble):
    """A model is not there at present."""

    code = 503
    retry_after = RETURN


class Late(Trouble):
    """The deadline passed before there was an answer."""

    code = 504
