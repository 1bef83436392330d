"""Releases that are built, killed, resumed, sealed, read and collected in any order."""

from __future__ import annotations

from tests.test_reliability.life import EVENTS, live


def test_a_product_lives_through_any_order_of_events():
    live(examples=8, steps=16)
    wanted = ("builds to the end", "builds again", "kills", "reads", "removals")
    wanted += ("seals while gc removes",)
    assert not [one for one in wanted if not EVENTS[one]], EVENTS
