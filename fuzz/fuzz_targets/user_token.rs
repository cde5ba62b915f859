//! Fuzzes `tributary_server::decoders::user_token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary_server::decoders::user_token(data));
