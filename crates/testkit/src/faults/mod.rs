//! Faults that are done to a program and to the disk below it: kills, failing steps and system calls, full disks, power
//! cuts.
//!
//! [`points`] uses the failpoints of a debug build and reaches every step by name; [`strace`] needs nothing of the
//! program and works on the system calls it makes; [`disk`] is a small file system of its own, which can be full, and
//! can lose power. Invariant: what can't be done on this machine is noted in the matrix as not run, never passed over.

pub mod disk;
pub mod points;
pub mod strace;
