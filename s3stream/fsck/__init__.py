"""Finding and mending damage of a store that is stopped: bucket against catalog against indexes against logs.

::

    findings.py        what can be wrong, by name
    tables.py  bucket.py  logs.py  object_content.py
                       what the four sides say
    intervals.py  coverage.py
                       which offsets are where (pure)
    checking.py        `Checker`: the check, which changes nothing
    repairing.py       `Repairer`: what follows from a check
    rows.py            the one transaction of a repair

Nothing here may run beside a broker; who calls it holds the locks of the logs, and the transaction looks for leases.
"""
