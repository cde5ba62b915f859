//! Fuzzes `tributary::internal::decoders::cursor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary::internal::decoders::cursor(data));
