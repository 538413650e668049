"""Orders and reports as protobuf, both ways."""

from __future__ import annotations

import json

from protos.skyrack.v1.agent_pb2 import ObeyRequest
from protos.skyrack.v1.assignment_pb2 import Assignment as AssignmentMessage
from protos.skyrack.v1.controller_pb2 import Event
from testbed.flow.assignment import Assignment
from testbed.node.orders import Order, Report


def request_of(order: Order) -> ObeyRequest:
    """An order on the wire."""
    return ObeyRequest(
        kind=order.kind,
        round=order.round,
        assignments=[
            AssignmentMessage(
                chunk=a.chunk,
                size_bytes=a.size,
                route=a.route,
                contact_start_s=a.contact_start_s,
                contact_end_s=a.contact_end_s,
                start_s=a.start_s,
                end_s=a.end_s,
                arrives_s=a.arrives_s,
                not_before_s=a.not_before_s,
                cut_by_plan=a.cut_by_plan,
            )
            for a in order.assignments
        ],
        attempt=order.attempt,
        lost=order.lost,
        begun_s=order.begun_s,
        turn=order.turn,
        about=order.about,
    )


def order_from_request(request: ObeyRequest) -> Order:
    """The inverse of ``request_of``."""
    return Order(
        request.kind,
        request.round,
        tuple(
            Assignment(
                a.chunk,
                a.size_bytes,
                tuple(a.route),
                a.contact_start_s,
                a.contact_end_s,
                a.start_s,
                a.end_s,
                a.arrives_s,
                a.not_before_s,
                a.cut_by_plan,
            )
            for a in request.assignments
        ),
        request.attempt,
        tuple(request.lost),
        request.begun_s,
        request.turn,
        request.about,
    )


def event_of(report: Report, urgent: bool) -> Event:
    """A report on the wire."""
    return Event(
        node=report.node,
        kind=report.kind,
        mission_s=report.mission_s,
        round=report.round,
        data_json=json.dumps(report.data).encode(),
        blob=report.blob,
        urgent=urgent,
    )


def report_from_event(event: Event) -> Report:
    """The inverse of ``event_of``, urgency aside."""
    return Report(
        event.node, event.kind, event.mission_s, event.round, json.loads(event.data_json or b"{}"), event.blob
    )
