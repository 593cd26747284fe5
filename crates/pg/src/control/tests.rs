//! Tests of pg_control on bytes made by hand; real ones are compared in `tests/files.rs`.
