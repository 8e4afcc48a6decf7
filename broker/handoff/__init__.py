"""Leadership that moves between living brokers: without a lost record, an error for an application, or a long pause.

    parking.py     requests that wait for a partition on its way
    arrival.py     the same for handlers that are tasks
    refused.py     what producers were told to send again comes first when the partition opens
    mover.py       the leader's side: follows the targets that the catalog gives, hands over
    announcing.py  tells the targets
    leaving.py     where everything goes when this broker stops

`broker.partitions` holds and opens the partitions themselves. The protocol, and why it is so, is in
docs/decisions/0012-handing-over.md.
"""
