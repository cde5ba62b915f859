//! Fuzzes `tributary::internal::decoders::statement`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary::internal::decoders::statement(data));
