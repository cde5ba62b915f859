//! Fuzzes `tributary::internal::decoders::freshness`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary::internal::decoders::freshness(data));
