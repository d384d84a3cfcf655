"""The error for data that a person can put right."""


class DataError(ValueError):
    """Data is missing, damaged or of the wrong kind; one line says which, where, what is legal."""


def reason(error: BaseException) -> str:
    """The first line of `error`'s message, or its type where it has none: fit for one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
