//! Labels, maps, histories and recovery settings in the hands of PostgreSQL.
