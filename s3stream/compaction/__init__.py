"""Compaction of objects: few and large ones instead of many and small ones, without moving an offset.

::

    plan.py        pure: which set objects, which ranges of a stream are worth rewriting now
    source.py      reads an object front to back, verified, in pieces of bounded size
    target.py      batches become an object: built off the loop, uploaded
    throttle.py    bytes a second, behind the reads of clients
    sets.py        set objects -> stream objects, and set objects of the next generation
    streams.py     ranges of an open stream -> one object; also through a filter, for compaction by key
    compactor.py   when, and what is known of it

Who does it: **set objects** are rewritten by the broker that uploaded them, or, when that one is gone, by one that the
owner of the `Compactor` names (`adopts`); **ranges of a stream** by the broker that has it open. None of this is needed
for safety: `Catalog.replace_objects` checks that nothing changed since it was read, so the second of two comes to
nothing. A broker that dies in the middle leaves prepared objects, which the cleaner finds as any others. What comes
damaged twice is left alone for an hour, with what was to be rewritten with it; the rest goes on.

The life of data (names in `code` are `plan.Limits`): uploads put parts of `upload_split_size` and more into stream
objects at once, the rest of a block into one set object. `fan_in` set objects become set objects of the next
generation (each holds fewer streams and more of each), and what has grown to `split_size` leaves as a stream object;
after `generation_max`, or a day, all of it does. Small neighbours of a stream are merged tier by tier until
they are large. So every byte is rewritten once per generation and once per tier at most; what is uploaded in large
parts never is.

Bounds
------
* A stream has, of each uploader, fewer than `fan_in` set objects of each generation, and fewer than `run_count_max`
  small objects between two large ones (above the last tier), once compaction has caught up. Days in virtual time and
  soaks watch that (`tests/s3stream/sim/day_bounds.py`, `tests/integration/soak`).
* Memory: a job holds its output (`target_size`, twice for set objects) and a piece of each input.
"""
