"""Pages of a list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.fleet.web.paging import number_of, page_of


@given(st.integers(0, 400), st.integers(1, 30))
def test_pages_together_are_the_list(n: int, per_page: int) -> None:
    items = list(range(n))
    pages = page_of(items, 1, per_page).pages
    assert [x for k in range(1, pages + 1) for x in page_of(items, k, per_page).items] == items
    assert all(len(page_of(items, k, per_page).items) <= per_page for k in range(1, pages + 1))


def test_a_page_says_where_it_stands() -> None:
    page = page_of(range(250), 3)
    assert (page.first, page.last, page.total, page.number, page.pages) == (201, 250, 250, 3, 3)
    empty = page_of([], 1)
    assert (empty.first, empty.last, empty.total, empty.pages) == (0, 0, 0, 1)


@pytest.mark.parametrize("number", [-5, 0, 99])
def test_a_page_that_is_not_there_is_the_nearest(number: int) -> None:
    assert page_of(range(150), number).number == (2 if number == 99 else 1)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "²", "9" * 30, "１"])
def test_what_is_no_number_is_the_first_page(text: str) -> None:
    assert number_of(text) == 1
    assert number_of("17") == 17
