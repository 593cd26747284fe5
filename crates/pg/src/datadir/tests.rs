//! Tests of the walk on directories made by hand.
