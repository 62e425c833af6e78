//! The parts of the `quorate` command that can be used and tested on their own.

pub mod shell;
