//! Fuzzes `tributary_cli::decoders::mastodon`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tributary_cli::decoders::mastodon(data));
