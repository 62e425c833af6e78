//! Sessions, the Postgres protocol, routing and distributed execution.

pub mod dist;


pub mod runtime;
#[cfg(test)]
mod testing;
