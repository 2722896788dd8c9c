//! Builds the BPF object.
