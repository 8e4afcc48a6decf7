"""Who leads what, evenly: load is measured, moves are planned, and carried out by whoever leads a partition."""
