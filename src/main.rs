//! The `tributary` command: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    tributary::commands::main()
}
