"""What is told on the management plane arrives whole: every field, whatever is added to it later."""

from __future__ import annotations

from dataclasses import fields

from testbed.flow.assignment import Assignment
from testbed.node.orders import Order
from testbed.node.wire import order_from_request, request_of

ROUTE = ("sat-1-0", "svalbard", "ground")
ASSIGNMENT = Assignment("r/2/plane.3/sat-1-0/head/0", 9240, ROUTE, 1.0, 9.0, 2.0, 3.0, 4.0, 1.5, True)
ORDER = Order("begin_round", 2, (ASSIGNMENT,), 3, ("sat-0-3",), 12.5, 4, "sat-1-0")


def test_an_order_arrives_as_it_was_given() -> None:
    assert order_from_request(request_of(ORDER)) == ORDER
    assert Order.from_dict(ORDER.to_dict()) == ORDER


def test_the_orders_of_this_test_leave_nothing_at_its_default() -> None:
    """Or a field that is forgotten on the wire would arrive all the same."""
    plain = Order("", 0)
    assert not [one.name for one in fields(Order) if getattr(ORDER, one.name) == getattr(plain, one.name)]
    assert not [one.name for one in fields(Assignment) if getattr(ASSIGNMENT, one.name) in (0, 0.0, "", (), False)]
