//! Every decoder of bytes from a client, a server or a file gets the corpora of the fuzz targets
//! and random mutations of them. It must neither panic, nor be slow, nor take much memory.
//!
//! `TRIBUTARY_FUZZ_SECONDS` sets the time for each target, and `TRIBUTARY_FUZZ_TARGET` chooses one.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use toml::Table;
use tributary::internal::decoders as library;
use tributary_cli::decoders as files;
use tributary_server::decoders as server;

use crate::support::{root, seed};

/// A decoder, with the most bytes that it may hold for each byte of input.
type Target = (&'static str, fn(&[u8]), usize);

/// Bytes for each byte of input. A parsed tree of JSON or TOML takes the most.
const PLAIN: usize = 256;
/// Zlib packs at most 1,032 bytes into one.
const PACKED: usize = 2 * 1_032;
/// Bytes that a decoder may hold for an empty input: mostly the buffers of files.
const BASE_BYTES: u64 = 512 * 1024;

const TARGETS: [Target; 18] = [
    ("body", server::body, PLAIN),
    ("configuration", library::configuration, PLAIN),
    ("csv", files::csv, PACKED),
    ("cursor", library::cursor, PLAIN),
    ("dsn", files::dsn, PLAIN),
    ("freshness", library::freshness, PLAIN),
    ("log_file", library::log_file, PACKED),
    ("mastodon", files::mastodon, PLAIN),
    ("ndjson", files::ndjson, PACKED),
    ("post", library::post, PLAIN),
    ("request", server::request, PLAIN),
    ("rows", library::rows, PACKED),
    ("service_keys", server::service_keys, PLAIN),
    ("statement", library::statement, PLAIN),
    ("time", library::time, PLAIN),
    ("token_keys", server::token_keys, PLAIN),
    ("unpacked", library::unpacked, PACKED),
    ("user_token", server::user_token, PLAIN),
];

/// The time for the mutations of one target, unless the environment sets another.
const MUTATION_TIME: Duration = Duration::from_millis(400);
/// One call must not take longer, on a busy machine too.
const CALL_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest mutated input in bytes.
const INPUT_BYTES_MAX: usize = 64 * 1024;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = root().join("fuzz/corpus").join(name);
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    files.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Numbers at the borders of integer types, as lengths in a damaged input could be.
const NUMBERS: [u64; 9] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// Changes one place of the input.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut impl Rng) {
    let at = random.random_range(0..=input.len());
    let end = random.random_range(at..=input.len().min(at + 64));
    let from = random.random_range(0..=other.len());
    let to = random.random_range(from..=other.len().min(from + 64));
    match random.random_range(0..7) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => input[at] = random.random(),
        2 => drop(input.drain(at..end)),
        3 => drop(input.splice(at..end, other[from..to].iter().copied())),
        4 => {
            let part = input[at..end].to_vec();
            let copies = random.random_range(1..20);
            input.splice(at..at, part.repeat(copies));
        }
        5 => {
            let width = [1, 2, 3, 4, 8][random.random_range(0..5)];
            let number = NUMBERS[random.random_range(0..NUMBERS.len())];
            let mut bytes = number.to_le_bytes()[..width].to_vec();
            if random.random() {
                bytes.reverse();
            }
            input.splice(at..input.len().min(at + width), bytes);
        }
        _ => input.truncate(at),
    }
}

/// Runs one input, and fails with the input if it breaks a rule.
fn run((name, decoder, factor): Target, input: &[u8]) {
    let start = Instant::now();
    let mut panicked = false;
    let held = allocation_counter::measure(|| {
        panicked = catch_unwind(AssertUnwindSafe(|| decoder(input))).is_err();
    });
    let time = start.elapsed();
    let bound = BASE_BYTES + input.len() as u64 * factor as u64;
    let problem = if panicked {
        "it panicked".to_owned()
    } else if held.bytes_max > bound {
        format!("it held {} bytes, more than {bound}", held.bytes_max)
    } else if time > CALL_TIME_MAX {
        format!("it took {time:?}")
    } else {
        return;
    };
    let file = env::temp_dir().join(format!("tributary-fuzz-{name}-{}", std::process::id()));
    fs::write(&file, input).unwrap();
    panic!("{name}: {problem}; the input of {} bytes is in {}", input.len(), file.display());
}

/// Runs mutated inputs for this time, and returns their number.
fn run_mutated(target: Target, time: Duration, seed: u64) -> u64 {
    let mut inputs = corpus(target.0);
    inputs.push(Vec::new());
    let mut random = StdRng::seed_from_u64(seed);
    let (start, mut runs) = (Instant::now(), 0);
    while start.elapsed() < time {
        let mut input = inputs[random.random_range(0..inputs.len())].clone();
        for _ in 0..random.random_range(1..8) {
            let other = random.random_range(0..inputs.len());
            mutate(&mut input, &inputs[other], &mut random);
        }
        input.truncate(INPUT_BYTES_MAX);
        run(target, &input);
        runs += 1;
    }
    runs
}

#[test]
fn decoders_survive_arbitrary_bytes() {
    let seconds = env::var("TRIBUTARY_FUZZ_SECONDS").ok();
    let seconds = seconds.map(|text| text.parse().expect("a number of seconds"));
    let time = seconds.map_or(MUTATION_TIME, Duration::from_secs);
    let chosen = env::var("TRIBUTARY_FUZZ_TARGET").ok();
    let seed = seed(0);
    for target in TARGETS {
        if chosen.as_ref().is_some_and(|chosen| chosen != target.0) {
            continue;
        }
        for input in corpus(target.0) {
            run(target, &input);
            // A truncated input is the most frequent kind of damage.
            for length in (0..input.len()).step_by(1 + input.len() / 200) {
                run(target, &input[..length]);
            }
        }
        let runs = run_mutated(target, time, seed);
        println!("{}: {runs} mutated inputs, seed {seed}", target.0);
    }
}

#[test]
fn fuzz_targets_are_those_that_the_test_replays() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.0.to_owned()).collect();
    let names_in = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root().join("fuzz").join(dir)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.map(|name| name.trim_end_matches(".rs").to_owned()).collect()
    };
    assert_eq!(names_in("fuzz_targets"), names);
    assert_eq!(names_in("corpus"), names);
    let manifest: Table =
        fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap().parse().unwrap();
    let bins = manifest["bin"].as_array().unwrap().iter();
    let bins = bins.map(|bin| bin["name"].as_str().unwrap().to_owned());
    assert_eq!(bins.collect::<BTreeSet<_>>(), names);
}
