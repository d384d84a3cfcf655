"""The error for data that a person can put right."""


class DataError(ValueError):
    """Data is missing, damaged or of the wrong kind; one line says which, where, what is legal.

    Names of files, classes and splits are anybody's. Line breaks and control characters in them
    are written out, so that the message stays one line and moves no cursor.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


def reason(error: BaseException) -> str:
    """The first line of `error`'s message, or its type where it has none: fit for one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
