//! Plans, without a cloud.
//!
//! Owns: what a plan says. Leaves to others: whether AWS agrees.
