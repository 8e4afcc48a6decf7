"""Arguments that commands share: which cluster to talk to, and about what."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_BOOTSTRAP = "127.0.0.1:9092"
TopicName = Annotated[str, typer.Argument(metavar="TOPIC", help="Name of the topic.")]
GroupId = Annotated[str, typer.Argument(metavar="GROUP", help="Id of the group.")]
Bootstrap = Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of a broker.")]
