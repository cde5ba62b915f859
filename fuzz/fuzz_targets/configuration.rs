//! Fuzzes `tributary::internal::decoders::configuration`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary::internal::decoders::configuration(data));
