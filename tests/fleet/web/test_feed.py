"""What is made no more often than it has to be."""

from __future__ import annotations

from edgectl.fleet.web.feed import PERIOD_S, PageView, PartFeed, Sparing, render_parts


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_cheap_is_made_at_every_look_and_once_for_all_who_look() -> None:
    clock, made = Clock(), []
    sparing = Sparing(clock)
    for period in range(5):
        for viewer in range(10):
            clock.now = period * PERIOD_S + viewer * 0.03
            sparing.get("a", lambda: made.append(clock.now))
    assert made == [period * PERIOD_S for period in range(5)]


def test_what_is_costly_is_made_less_often_but_within_what_a_page_may_be_old() -> None:
    clock, made = Clock(), []
    sparing = Sparing(clock)

    def costly() -> None:
        clock.now += 0.1
        made.append(clock.now)

    for longest_s, wanted in ((100.0, 1), (2.0, 10)):
        made.clear()
        sparing.forget()
        end_s = clock.now + 20
        while clock.now < end_s:
            sparing.get("a", costly, longest_s=longest_s)
            clock.now += 0.05
        assert len(made) == wanted


def test_after_an_act_everything_is_read_anew() -> None:
    sparing, made = Sparing(Clock()), []
    for _ in range(3):
        sparing.get("a", lambda: made.append(1))
        sparing.forget()
    assert len(made) == 3


def test_what_was_made_for_addresses_is_not_kept_without_bound() -> None:
    sparing = Sparing(Clock())
    for i in range(1000):
        sparing.get(("page", i), lambda: None)
    assert len(sparing._kept) <= 64


def test_a_page_is_made_once_for_all_who_look() -> None:
    made = []

    def page() -> PageView:
        made.append(1)
        return PageView("x", "fleet.html", {"r": ("release_list.html", {"page": _Nothing(), "href": str})})

    feed = PartFeed(Sparing(Clock()))
    assert len({id(feed.parts("/releases", page)) for _ in range(5)}) == 1
    assert len(made) == 1


class _Nothing:
    items, pages, total = (), 1, 0


def test_a_part_has_another_tag_when_it_has_changed() -> None:
    def tag(total: int) -> str:
        page = _Nothing()
        page.total = total
        return render_parts(PageView("x", "", {"r": ("release_list.html", {"page": page, "href": str})}))[
            "r"
        ].tag

    assert tag(0) == tag(0) != tag(1)
