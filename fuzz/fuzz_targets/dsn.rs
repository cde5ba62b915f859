//! Fuzzes `tributary_cli::decoders::dsn`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary_cli::decoders::dsn(data));
