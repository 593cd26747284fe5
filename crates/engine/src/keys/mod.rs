//! Keys: what an identity opens, whose signatures count, to whom everything is sealed, and how these change.
//!
//! Invariant: what changes for every host is a signed control object in every place; what changes for one is its
//! repository file. Each change is a plan, which reads only, and a run, which can be repeated after a crash between any
//! two of its steps.

mod check;
mod publish;
mod rewrap;
mod rotate;
mod signers;

pub use check::{KeysChecked, Opened, check, opens_test_object};
pub use rewrap::{Rewrapped, rewrap};
pub use rotate::{Rotation, plan_rotation, run_rotation};
pub use signers::{Distrust, Trusting, plan_distrust, plan_trust, run_distrust, run_trust};
