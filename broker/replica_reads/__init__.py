"""Reading from a broker of the consumer's own rack (KIP-392), which serves what is committed in objects.

* `selection`: who reads where (pure).
* `redirects`: the leader's memory of whom it sent away, so that nobody is sent in circles (pure).
* `view`: a partition that another broker leads, as far as it is committed.
* `transactions`: what a read_committed reader of a view has to be told.
* `views`: all views of this broker: loaded, kept up to date, let go.
* `reads`: what the Fetch handler calls.
"""

from broker.replica_reads.reads import ReplicaReads
from broker.replica_reads.view import ReplicaView

__all__ = ["ReplicaReads", "ReplicaView"]
