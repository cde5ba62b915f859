//! Fuzzes `tributary::internal::decoders::post`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary::internal::decoders::post(data));
