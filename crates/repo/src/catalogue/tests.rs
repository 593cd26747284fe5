//! Claims about listings.
