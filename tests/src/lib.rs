//! Scenarios and the harness.
