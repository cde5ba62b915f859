//! Fuzzes `tributary_server::decoders::token_keys`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary_server::decoders::token_keys(data));
