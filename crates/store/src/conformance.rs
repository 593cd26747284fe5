//! What every store must do, as named cases.
