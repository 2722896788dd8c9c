//! The packet walk.
#![no_std]
