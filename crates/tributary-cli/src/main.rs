//! The binary `tributary`.

use mimalloc::MiMalloc;

/// Faster than the system's allocator. Above all than that of musl, which release builds contain.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> std::process::ExitCode {
    tributary_cli::main()
}
