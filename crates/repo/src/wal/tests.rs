//! Claims about WAL objects.
