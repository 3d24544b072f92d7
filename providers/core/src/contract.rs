//! Being written in the next commit.
