//! Fuzzes `tributary::internal::decoders::unpacked`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary::internal::decoders::unpacked(data));
