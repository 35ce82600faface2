"""A table that loses no letter at any width.

Words stay whole as long as the terminal is wide enough for the longest of each column. Where it is not, either long
words are broken behind ``-``, ``/``, ``@`` and their like, or each row becomes a heading and lines of ``header value``
with whole words: whichever takes fewer lines. Only a word that is longer than a line is broken anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

__all__ = ["FoldingTable", "column_widths", "folded"]

_GAP = 2
_INDENT = "  "
_NARROWEST = 20  # cells; below it the terminal breaks lines itself
_WORD = re.compile(r"\s*\S+")
_INSIDE_A_WORD = re.compile(r"(?<=\w[-/@;,=_])(?=\w)")


def folded(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` cells, which joined hold every letter of ``text``."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for token in _WORD.findall(paragraph):
            if cell_len(line + token) <= width:
                line += token
                continue
            word = token.lstrip()
            if line and cell_len(word) <= width:
                lines.append(line)
                line = word
                continue
            *whole, line = _packed(line, token if line else word, width)
            lines += whole
        lines.append(line)
    return lines


def column_widths(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Cells for each column, of all its texts, header included; ``room`` is what all may take. None: not even the
    pieces of words fit."""
    whole = [max(_widest(t.split("\n")) for t in texts) for texts in columns]
    if sum(whole) <= room:
        return whole
    words = [_longest_word(texts) for texts in columns]
    if sum(words) <= room:
        return _shared(words, whole, room)
    pieces = [max(_widest(_pieces(t)) for t in texts) for texts in columns]
    if sum(pieces) > room:
        return None
    widths = list(pieces)
    # Whole words for as many columns as can be.
    for i in sorted(range(len(widths)), key=lambda i: words[i] - pieces[i]):
        if sum(widths) - widths[i] + words[i] <= room:
            widths[i] = words[i]
    return _shared(widths, [max(w, x) for w, x in zip(widths, whole, strict=True)], room)


class FoldingTable(Table):
    """Filled as any table of rich; cells are strings, or texts of one style."""

    def __init__(self, *headers: str, title: str | None = None) -> None:
        super().__init__(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), title=title)
        self.texts: list[tuple[Text, ...]] = []
        for header in headers:
            self.add_column(header.lstrip(">"), justify="right" if header.startswith(">") else "left")

    def add_row(self, *cells: RenderableType | None, **_: object) -> None:
        self.texts.append(tuple(c if isinstance(c, Text) else Text(str(c)) for c in cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(options.max_width, _NARROWEST)
        if self.title:
            yield Text(str(self.title), "italic")
        headers = [str(c.header) for c in self.columns]
        texts = [[header, *(row[i].plain for row in self.texts)] for i, header in enumerate(headers)]
        widths = column_widths(texts, width - _GAP * (len(headers) - 1))
        if widths is not None and all(
            w >= _longest_word(column) for w, column in zip(widths, texts, strict=True)
        ):
            yield self._in_columns(headers, widths)[0]
            return
        records = list(self._records(headers, width))
        if widths is not None:
            columns, height = self._in_columns(headers, widths)
            if height <= sum(len(text.plain.split("\n")) for text in records):
                yield columns
                return
        yield from records

    def _in_columns(self, headers: Sequence[str], widths: Sequence[int]) -> tuple[Table, int]:
        """The table, and how many lines it takes."""
        drawn = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        for column, header, width in zip(self.columns, headers, widths, strict=True):
            text = Text("\n".join(folded(header, width)))
            drawn.add_column(text, justify=column.justify, width=width, overflow="fold")
        height = max(len(folded(header, width)) for header, width in zip(headers, widths, strict=True))
        for row in self.texts:
            cells = [folded(cell.plain, width) for cell, width in zip(row, widths, strict=True)]
            height += max(map(len, cells))
            drawn.add_row(*(Text("\n".join(c), cell.style) for c, cell in zip(cells, row, strict=True)))
        return drawn, height

    def _records(self, headers: Sequence[str], width: int) -> Iterator[Text]:
        """Each row: its first cell, and below the others with their headers."""
        for first, *others in self.texts:
            yield Text("\n".join(folded(first.plain, width)), "bold")
            line = Text()
            for header, cell in zip(headers[1:], others, strict=True):
                if not cell.plain:
                    continue
                pair = Text(f"{header} " if header else "", "dim").append_text(cell)
                fits = "\n" not in pair.plain and cell_len(_INDENT + pair.plain) <= width
                if line.plain and not (
                    fits and cell_len(_INDENT + line.plain + _INDENT + pair.plain) <= width
                ):
                    yield Text(_INDENT).append_text(line)
                    line = Text()
                if fits:
                    line = line.append_text(Text(_INDENT if line.plain else "")).append_text(pair)
                    continue
                part, *more = folded(pair.plain, width - 2 * len(_INDENT))
                yield Text(_INDENT + part)
                yield from (Text(2 * _INDENT + part) for part in more)
            if line.plain:
                yield Text(_INDENT).append_text(line)


def _packed(line: str, token: str, width: int) -> list[str]:
    """``line`` and the lines that follow it when a word that is longer than a line is broken into pieces."""
    lines = [line]
    for piece in _INSIDE_A_WORD.split(token):
        if cell_len(lines[-1] + piece) <= width:
            lines[-1] += piece
        elif cell_len(piece.lstrip()) <= width:
            lines.append(piece.lstrip())
        else:
            lines += chop_cells(piece.lstrip(), width)
    return lines if lines[0] else lines[1:]


def _pieces(text: str) -> Iterator[str]:
    for word in text.split():
        yield from _INSIDE_A_WORD.split(word)


def _longest_word(texts: Sequence[str]) -> int:
    return max(_widest(text.split()) for text in texts)


def _widest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _shared(widths: Sequence[int], wanted: Sequence[int], room: int) -> list[int]:
    """``widths`` with what is left of ``room``: the same for each column, as far as it wants it."""
    found = list(widths)
    order = sorted(range(len(found)), key=lambda i: wanted[i] - widths[i])
    for done, i in enumerate(order):
        left = room - sum(found)
        found[i] += min(wanted[i] - widths[i], left // (len(order) - done))
    return found
