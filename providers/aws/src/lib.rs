//! Building the dependencies.
