//! Fuzzes `tributary::internal::decoders::log_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary::internal::decoders::log_file(data));
