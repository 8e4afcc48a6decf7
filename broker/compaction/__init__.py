"""Log compaction: topics with `cleanup.policy=compact` keep the last record of each key, as Kafka's log cleaner does.

::

    eligibility.py   pure: what of a log may be compacted, and whether it is time
    cleaning.py      pure: one pass over a log; batches in, batches out
    key_map.py       pure: key -> offset of its last record, within a bound of memory
    transactions.py  pure: what a pass knows of the transactions it goes through
    worker.py        the process in which passes run, and this side of it
    cleaner.py       `LogCleaner`: looks for logs that are due, drives a pass, one at a time

A pass has two halves. The first reads what is **dirty** (above the compacted offset) into the key map; the second sends
everything from the log's start to the map's end through `Cleaning.filter` and writes what stays into new objects
(`Compactor.rewrite`, which makes it true step by step and moves the compacted offset with it). A log whose dirty
keys do not fit into the map takes several passes. A pass that is interrupted leaves a log that is partly compacted,
and right.

What stays, what goes
---------------------
* The last record of each key stays at its offset, and everything above the map's end. Records of aborted transactions,
  and those without key, go.
* A tombstone stays for `delete.retention.ms` after the first pass that met it as the last of its key: that pass writes
  the **delete horizon** into its batch; passes after it drop the tombstone.
* A transaction's marker stays while a batch of the transaction does; the pass that finds none sets its delete horizon,
  and passes after it drop it. Before an abort marker goes, the partition's index of aborted transactions forgets the
  transaction, durably.
* Nothing at or above the last stable offset is touched, nor what is active (`eligibility`).
* The last batch of a producer that is still known stays, without records if need be, so that its sequence survives.
"""
