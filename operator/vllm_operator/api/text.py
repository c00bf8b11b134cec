"""Texts for people."""


def shorten(text: str, longest: int) -> str:
    """The text, or its beginning and an ellipsis: `longest` characters at most.

    >>> shorten("abcdef", 6), shorten("abcdef", 5)
    ('abcdef', 'abcd…')
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"
