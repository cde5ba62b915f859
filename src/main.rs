//! The `tributary` command: arguments in, exit code out.

use std::process::ExitCode;

/// Pages are made of many small pieces; see docs/decisions/0009-memory.md for what this one saves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tributary::commands::main()
}
