"""Strings of a record in Markdown: they read as they are, and nothing in them is markup. No torch."""

import re

_MARKUP = re.compile(r"[\\`*_{}\[\]<>$&|~#]")


def literal(value: object) -> str:
    """As text of a sentence or a table's cell: signs that could be markup stand as entities, line breaks as spaces."""
    return _MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", one_line(value))


def code(value: object) -> str:
    """As code in a sentence: between more backticks than stand anywhere in it. A table's cell would end at a pipe."""
    said = one_line(value)
    fence = "`" * (1 + max(map(len, re.findall("`+", said)), default=0))
    return f"{fence} {said} {fence}" if "`" in said else f"{fence}{said}{fence}"


def one_line(value: object) -> str:
    return " ".join(str(value).splitlines())
