"""Write-ahead logs. The interface is `wal.api`; `wal.open_wal` and `wal.fence_wal` choose an implementation by URL."""
