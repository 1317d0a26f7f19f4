"""Strict JSON text -> a tree of nodes, with places.

The standard library's parser keeps no places, and YAML's knows no surrogate pairs, which is how
JSON writers spell characters beyond U+FFFF.
"""

import json
import re

from secgroupd.core.tree import TreeBuilder, Unreadable, place_of, plain_value

# A scalar takes the colon or comma behind it along, which halves the number of tokens.
_TOKEN = re.compile(
    r'[ \t\r\n]*+(?:(?:"([^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+)"'
    r"|(-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+|true|false|null))"
    r"(?:[ \t\r\n]*+([,:]))?+"
    r"|([{}\[\],]))"
)
_STRING, _LITERAL, _FOLLOWER, _SIGN = 1, 2, 3, 4

_VALUE, _VALUE_OR_END, _KEY, _KEY_OR_END, _MORE_OR_END, _NOTHING = range(6)
_WORDS = (
    "a value",
    "a value or ]",
    'a key in double quotes and ":"',
    'a key in double quotes and ":", or }',
    "a comma, or the end of the list or mapping,",
    "nothing more",
)


def feed(builder: TreeBuilder, text: str) -> None:
    """Feed the builder with a JSON text; an empty text feeds nothing.

    Raises:
        Unreadable: the text is not JSON, or is over a limit.
    """
    if text.strip(" \t\r\n"):
        _Feeder(builder, text).run()


class _Feeder:
    __slots__ = ("_builder", "_closers", "_expect", "_text")

    def __init__(self, builder: TreeBuilder, text: str) -> None:
        self._builder = builder
        self._text = text
        self._expect = _VALUE
        self._closers: list[str] = []

    def run(self) -> None:
        text, scan, take_scalar = self._text, _TOKEN.match, self._builder.scalar
        end, line, line_start = 0, 1, 0
        line_end = text.find("\n")
        while token := scan(text, end):
            string, literal, follower, sign = token.groups()
            end = token.end()
            # A string's group begins behind its quote.
            start = (
                token.start(_STRING) - 1
                if string is not None
                else token.start(_SIGN if sign else _LITERAL)
            )
            while -1 < line_end < start:
                line, line_start = line + 1, line_end + 1
                line_end = text.find("\n", line_start)
            column = start - line_start + 1
            if sign:
                self._punctuation(sign, start, line, column)
                continue
            self._advance(is_key=string is not None and follower == ":", start=start)
            if string is None:
                take_scalar(line, column, plain_value(literal))
            else:
                decoded = self._unescaped(string, start) if "\\" in string else string
                take_scalar(line, column, decoded)
            if follower == ",":
                self._comma(token.start(_FOLLOWER))
            elif follower is not None and self._expect != _VALUE:
                raise self._unexpected(token.start(_FOLLOWER))
        rest = end + len(text[end:]) - len(text[end:].lstrip(" \t\r\n"))
        if rest < len(text) or self._expect != _NOTHING:
            raise self._unexpected(rest)

    def _advance(self, start: int, *, is_key: bool) -> None:
        """Step over a key with its colon, or over a value."""
        expect = self._expect
        if expect in (_KEY, _KEY_OR_END):
            if not is_key:
                raise self._unexpected(start)
            self._expect = _VALUE
        elif expect in (_VALUE, _VALUE_OR_END):
            self._expect = _MORE_OR_END if self._closers else _NOTHING
        else:
            raise self._unexpected(start)

    def _comma(self, start: int) -> None:
        if self._expect != _MORE_OR_END:
            raise self._unexpected(start)
        self._expect = _KEY if self._closers[-1] == "}" else _VALUE

    def _punctuation(self, sign: str, start: int, line: int, column: int) -> None:
        expect = self._expect
        if sign == ",":
            self._comma(start)
        elif sign == "{" and expect in (_VALUE, _VALUE_OR_END):
            self._builder.open_map(line, column)
            self._closers.append("}")
            self._expect = _KEY_OR_END
        elif sign == "[" and expect in (_VALUE, _VALUE_OR_END):
            self._builder.open_list(line, column)
            self._closers.append("]")
            self._expect = _VALUE_OR_END
        elif (
            self._closers
            and sign == self._closers[-1]
            and expect in (_MORE_OR_END, _VALUE_OR_END, _KEY_OR_END)
        ):
            self._closers.pop()
            self._builder.close()
            self._expect = _MORE_OR_END if self._closers else _NOTHING
        else:
            raise self._unexpected(start)

    def _unescaped(self, content: str, start: int) -> str:
        try:
            text: str = json.loads(f'"{content}"')
        except ValueError:
            line, column = place_of(self._text, start)
            message = "this text has a wrong escape: write \\\\ for a backslash"
            raise Unreadable(line, column, "json-syntax", message) from None
        return text

    def _unexpected(self, offset: int) -> Unreadable:
        line, column = place_of(self._text, offset)
        message = f"this is not JSON: {_WORDS[self._expect]} is expected here"
        return Unreadable(line, column, "json-syntax", message)
