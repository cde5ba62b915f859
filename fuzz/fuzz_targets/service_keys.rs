//! Fuzzes `tributary_server::decoders::service_keys`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary_server::decoders::service_keys(data));
