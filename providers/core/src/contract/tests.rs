//! Tests of the suite itself follow in the next commit.
