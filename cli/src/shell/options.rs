//! The command line of `quorate sql`.

use clap::Args;
use std::path::PathBuf;

/// The address used when none is given.
pub const DEFAULT_URL: &str = "postgres://quorate@127.0.0.1:26257/quorate";

/// Options of `quorate sql`.
#[derive(Args, Clone, Debug, Default)]
pub struct ShellOptions {
    /// Server, as postgres://user@host:port/database
    #[arg(value_name = "URL", default_value = DEFAULT_URL)]
    pub url: String,

    /// Run this (SQL, or one backslash command) and leave; may be given several times
    #[arg(short = 'c', long = "command", value_name = "SQL")]
    pub commands: Vec<String>,

    /// Run this file (- is standard input) and leave; may be given several times, after all -c
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Set a variable; ON_ERROR_STOP=1 ends a script at its first error with exit code 3
    #[arg(short = 'v', long = "set", visible_alias = "variable", value_name = "NAME=VALUE")]
    pub variables: Vec<String>,

    /// Print values with a bar between them, without aligning them
    #[arg(short = 'A', long = "no-align")]
    pub unaligned: bool,

    /// Print rows only
    #[arg(short = 't', long = "tuples-only")]
    pub tuples_only: bool,

    /// Print comma-separated values
    #[arg(long, conflicts_with = "unaligned")]
    pub csv: bool,

    /// Print a line for each value instead of each row
    #[arg(short = 'x', long)]
    pub expanded: bool,

    /// Print no command tags and no greeting
    #[arg(short = 'q', long)]
    pub quiet: bool,
}
