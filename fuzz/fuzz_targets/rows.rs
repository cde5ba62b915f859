//! Fuzzes `tributary::internal::decoders::rows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary::internal::decoders::rows(data));
