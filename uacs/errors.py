"""What U-ACS says when something is wrong: one line with the place, the fault and the mend.

UacsError           the run cannot go on                       exit 1
  BadInput          a file, sample or model is not as it must be
  Refused           what is asked contradicts what lies there (another run, another model)
  WrongUse          an option or its value is wrong            exit 2
"""


class UacsError(Exception):
    """A fault that a person can mend; its text is complete in itself."""

    exit_code = 1


class BadInput(UacsError):
    """A file, a sample or a model folder is not as it must be."""


class Refused(UacsError):
    """The request contradicts what was made before: another identity, model or read-out."""


class WrongUse(UacsError):
    """A command line or a setting that makes no sense."""

    exit_code = 2


def shown(value: object, most: int = 60) -> str:
    r"""A value from a user's file as it may stand in one line: cut short, and nothing in it that a terminal obeys.

    >>> print(shown("two" + chr(10) + "lines"))
    two\nlines
    """
    text = value if isinstance(value, str) else type(value).__name__ if isinstance(value, list | dict) else str(value)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most]) + ("..." if len(text) > most else "")


def reason(error: BaseException, most: int = 200) -> str:
    r"""What an error says, in one line; of one that was raised from another, what that one said.

    >>> reason(ValueError("no\nmore")), reason(KeyError())
    ('no', 'KeyError')
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[0].rstrip(" :;") if lines else type(error).__name__, most)
