"""Side-by-side benchmarks, workloads, drills and the history checker."""
