"""The JetStream adapter: nothing outside this package knows NATS."""

from scalebox_actors.broker.admin import Admin, StreamSize, topologies
from scalebox_actors.broker.answering import answer_on
from scalebox_actors.broker.client import Events
from scalebox_actors.broker.commit import Injected
from scalebox_actors.broker.connect import Credentials, connect
from scalebox_actors.broker.jetstream import JetStreamBroker
from scalebox_actors.broker.link import Link
from scalebox_actors.broker.place import check_place, claim
from scalebox_actors.broker.streams import Planned, ensure, planned
from scalebox_actors.broker.watch import watch_links

__all__ = [
    "Admin",
    "Credentials",
    "Events",
    "Injected",
    "JetStreamBroker",
    "Link",
    "Planned",
    "StreamSize",
    "answer_on",
    "check_place",
    "claim",
    "connect",
    "ensure",
    "planned",
    "topologies",
    "watch_links",
]
