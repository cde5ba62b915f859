//! Fuzzes `tributary::internal::decoders::time`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary::internal::decoders::time(data));
