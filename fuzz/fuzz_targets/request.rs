//! Fuzzes `tributary_server::decoders::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary_server::decoders::request(data));
