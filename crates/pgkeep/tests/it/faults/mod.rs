//! Faults of every kind against the whole binary: kills and failing steps one by one, system calls that fail, full
//! disks, power cuts. What must hold under each: docs/reliability.md, "Kills, errors, power".
//!
//! Everything is enumerated or drawn from a seed; a failure names the fault that repeats it.

mod backup;
mod calls;
mod fetch;
mod full;
mod power;
mod push;
mod pusher;
mod restore;
